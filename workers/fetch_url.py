"""Fetch a dataset's file from a URL: size-limited, resumable, and never from a private network.

    python -m workers.fetch_url fetch-url FILE.json

For every redirect, the host name is resolved once, all its addresses must be public, and the connection goes to exactly
the address that was checked. This prevents DNS rebinding.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.machine.full_disk import is_full_disk
from finetune_hub.machine.public_addresses import NotPublic, look_up
from finetune_hub.spec.problem import Explained, Failed, FailureClass
from finetune_hub.spec.run import FetchedDataset, UrlFetchRun
from finetune_hub.spec.sizes import size_in_words
from workers.downloading import CHUNK_BYTES, TRIES, Reporter, ended, going_on
from workers.supervisor import write_json

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0


class UrlRefused(Explained):
    """The URL cannot be fetched."""

    def __init__(self, message: str, remedy: str, *, may_pass: bool = False) -> None:
        """Create the error.

        Args:
            may_pass: whether a retry may help.
        """
        self.failure_class: FailureClass = "infrastructure" if may_pass else "bad_config"
        super().__init__(Failed(self.failure_class, message, remedy))


def fetch(run: UrlFetchRun) -> None:
    """Download the file to `run.folder`, and write its path to `result.json`.

    Raises:
        UrlRefused: the address is not public, does not return a file, or the file is too large.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    target = run.folder / "download"
    if not target.is_file():
        partial = target.with_suffix(".part")
        try:
            going_on(run.output_dir, httpx.TransportError, OSError)(read, run, partial)
        except (httpx.TransportError, OSError) as error:
            if is_full_disk(error):
                partial.unlink(missing_ok=True)
                raise UrlRefused(
                    "The worker's disk has no space for the file. Nothing of it was kept.",
                    "Ask whoever runs the hub to free space on the worker's disk, then import it again.",
                    may_pass=True,
                ) from error
            raise UrlRefused(
                f"The download failed {TRIES} times, most recently with {type(error).__name__}.",
                "Check the URL and try again.",
                may_pass=True,
            ) from error
        partial.replace(target)
    source = f"{run.url} (SHA-256 {sha256_of(target)})"
    fetched = FetchedDataset(file=target, file_name=run.file_name, source=source, license="")
    write_json(run.output_dir / "result.json", fetched.model_dump(mode="json"))


def read(run: UrlFetchRun, partial: Path) -> None:
    """Append the missing part of the file; if the file has changed, the server sends all of it."""
    have = partial.stat().st_size if partial.exists() else 0
    note = partial.with_suffix(".etag")
    headers = {"Accept-Encoding": "identity"}
    if have and note.is_file():
        headers |= {"Range": f"bytes={have}-", "If-Range": note.read_text()}
    with open_url(run, headers) as response:
        goes_on = response.status_code == httpx.codes.PARTIAL_CONTENT
        start = have if goes_on else 0
        total = start + int(response.headers.get("Content-Length", 0))
        check_size(run, total)
        keep_etag(note, response.headers.get("ETag", ""))
        told = Reporter(run.output_dir)
        with partial.open("ab" if goes_on else "wb") as file:
            for chunk in response.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                check_size(run, file.tell())
                told(file.tell(), max(total, file.tell()))


def keep_etag(note: Path, etag: str) -> None:
    """Store a strong ETag, by which an unchanged file is recognized later; a weak one does not count."""
    if etag.startswith('"'):
        note.write_text(etag)
    else:
        note.unlink(missing_ok=True)


def check_size(run: UrlFetchRun, size_bytes: int) -> None:
    """Check the size limit.

    Raises:
        UrlRefused: the file is larger than allowed.
    """
    if size_bytes > run.max_bytes:
        raise UrlRefused(
            f"The file is larger than {size_in_words(run.max_bytes)}.", "Split it and import the parts as datasets."
        )


@contextmanager
def open_url(run: UrlFetchRun, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """Open the response with the file. Each redirect is checked like the first URL.

    Raises:
        UrlRefused, httpx.TransportError: the request failed.
    """
    url = httpx.URL(run.url)
    with httpx.Client(timeout=TIMEOUT_SECONDS) as client:
        for _ in range(MAX_REDIRECTS):
            request = pinned_request(client, url, headers, allow_private=run.allow_private)
            response = client.send(request, stream=True)
            try:
                if response.has_redirect_location:
                    url = url.join(response.headers["Location"])
                    continue
                if response.is_server_error:
                    raise httpx.RemoteProtocolError(f"status {response.status_code}")
                if response.is_error:
                    raise UrlRefused(
                        f"{url.host} responded with {response.status_code} {response.reason_phrase}.",
                        "Check the URL. The hub sends no password; if the file needs one, download and upload it.",
                    )
                yield response
                return
            finally:
                response.close()
    raise UrlRefused(f"{run.url} redirects more than {MAX_REDIRECTS} times.", "Use the URL that it ends at.")


def pinned_request(
    client: httpx.Client, url: httpx.URL, headers: dict[str, str], *, allow_private: bool
) -> httpx.Request:
    """Build a request to an address that was checked; certificates are still checked against the host name.

    Raises:
        UrlRefused: one of its addresses is not public.
        OSError: the host name is unknown.
    """
    if url.scheme not in ({"https", "http"} if allow_private else {"https"}):
        raise UrlRefused(f"{url.scheme}:// URLs are not supported.", "Use a URL that starts with https://.")
    try:
        address = look_up(url.host, allow_private=allow_private)
    except NotPublic as error:
        raise UrlRefused(
            f"{url.host} is on a private network, and the hub only fetches from public addresses.",
            "Upload the file, or ask the hub's operator to set FINETUNE_HUB_ALLOW_PRIVATE_URLS=1.",
        ) from error
    host = url.netloc.decode("ascii").rpartition("@")[2]
    extensions = {"sni_hostname": url.host}
    return client.build_request(
        "GET", url.copy_with(host=str(address)), headers=headers | {"Host": host}, extensions=extensions
    )


def main() -> int:
    run = UrlFetchRun.model_validate_json(Path(sys.argv[2]).read_text())
    return ended(lambda: fetch(run), run.output_dir, max_seconds=run.max_seconds)


if __name__ == "__main__":
    sys.exit(main())
