"""Fetch a base model or dataset from Hugging Face: at one commit, resumable, kept until imported.

python -m workers.fetch_huggingface fetch-huggingface FILE.json
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from finetune_hub.artifacts.huggingface import HuggingFaceRefusal, Login, fetch_files, look_up
from finetune_hub.artifacts.huggingface_files import dataset_files, model_files
from finetune_hub.spec.events import Resolved
from finetune_hub.spec.run import FetchedDataset, HuggingFaceFetchRun
from finetune_hub.spec.sizes import size_in_words
from workers.downloading import Reporter, ended, report
from workers.join_files import join_files
from workers.supervisor import write_json

COMMIT_FILE = ".commit"


def fetch(run: HuggingFaceFetchRun) -> None:
    """Look up the repository, report what was found, and download its files to `run.folder`.

    Raises:
        HuggingFaceRefusal: see `look_up`, `model_files`, `dataset_files` and `fetch_files`.
    """
    token = take_token(run)
    found = look_up(run.reference, run.kind, token=token)
    name = run.reference.repository
    report(run.output_dir, Resolved(repository=name, commit=found.commit, license=found.license, access=found.access))
    files = model_files(found) if run.kind == "model" else dataset_files(found, max_bytes=run.max_bytes)
    check_size(run, sum(file.size_bytes or 0 for file in files))
    keep_commit(run.folder, found.commit)
    told = Reporter(run.output_dir)

    def report_bytes(done_bytes: int, total_bytes: int) -> None:
        check_size(run, done_bytes)  # A file whose size was not named, or not truly.
        told(done_bytes, total_bytes)

    fetch_files(found, files, run.folder, token=token, report=report_bytes)
    if run.kind == "dataset":
        paths = [run.folder / file.path for file in files]
        joined = join_files(paths, run.folder / f"joined{''.join(paths[0].suffixes[-2:])}")
        fetched = FetchedDataset(
            file=joined, file_name=Path(files[0].path).name, source=f"hf:{found.reference}", license=found.license
        )
        write_json(run.output_dir / "result.json", fetched.model_dump(mode="json"))


def check_size(run: HuggingFaceFetchRun, size_bytes: int) -> None:
    """Check the size limit.

    Raises:
        HuggingFaceRefusal: `upload_too_large`.
    """
    if run.max_bytes is not None and size_bytes > run.max_bytes:
        raise HuggingFaceRefusal(
            "upload_too_large",
            f"The files of {run.reference.repository} are larger than {size_in_words(run.max_bytes)} together.",
            "Choose a smaller one, or ask the hub's operator to raise the limit.",
        )


def take_token(run: HuggingFaceFetchRun) -> Login:
    """Read and delete the team's token. The login of this machine's own user is never used."""
    if run.token_file is None:
        return False
    token = run.token_file.read_text()
    run.token_file.unlink()
    return token


def keep_commit(folder: Path, commit: str) -> None:
    """Record the commit in the folder, and empty the folder first if it has files of another commit."""
    note = folder / COMMIT_FILE
    if not note.is_file() or note.read_text() != commit:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        note.write_text(commit)


def main() -> int:
    run = HuggingFaceFetchRun.model_validate_json(Path(sys.argv[2]).read_text())
    return ended(lambda: fetch(run), run.output_dir, max_seconds=run.max_seconds)


if __name__ == "__main__":
    sys.exit(main())
