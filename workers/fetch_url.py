"""Fetch a dataset's file from a web address: bounded, resumed after a break, and never from inside the network.

    python -m workers.fetch_url fetch-url FILE.json

At every hop the name is resolved once, all its addresses must be public, and the connection goes to the very address
that was looked at: a name that resolves otherwise a moment later gains nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.machine.public_addresses import NotPublic, look_up
from finetune_hub.spec.problem import Explained, Failed, FailureClass
from finetune_hub.spec.run import FetchedDataset, UrlFetchRun
from finetune_hub.spec.sizes import size_in_words
from workers.downloading import CHUNK_BYTES, TRIES, Reporter, ended, going_on
from workers.supervisor import write_json

MAX_REDIRECTS = 5
TIMEOUT_SECONDS = 30.0


class UrlRefused(Explained):
    """The address cannot be fetched from."""

    def __init__(self, message: str, remedy: str, *, may_pass: bool = False) -> None:
        """
        Args:
            may_pass: Trying again may help.
        """
        self.failure_class: FailureClass = "infrastructure" if may_pass else "bad_config"
        super().__init__(Failed(self.failure_class, message, remedy))


def fetch(run: UrlFetchRun) -> None:
    """Bring the file into `run.folder`, and say in `result.json` where it is.

    Raises:
        UrlRefused: the address is none of the public internet, does not answer with a file, or with too large a one.
    """
    run.folder.mkdir(parents=True, exist_ok=True)
    target = run.folder / "download"
    if not target.is_file():
        partial = target.with_suffix(".part")
        try:
            going_on(run.output_dir, httpx.TransportError, OSError)(read, run, partial)
        except (httpx.TransportError, OSError) as error:
            raise UrlRefused(
                f"The download broke {TRIES} times, last by {type(error).__name__}.",
                "Check the address and try again.",
                may_pass=True,
            ) from error
        partial.replace(target)
    source = f"{run.url} (SHA-256 {sha256_of(target)})"
    fetched = FetchedDataset(file=target, file_name=run.file_name, source=source, license="")
    write_json(run.output_dir / "result.json", fetched.model_dump(mode="json"))


def read(run: UrlFetchRun, partial: Path) -> None:
    """Append what is missing of the file; a server whose file has changed meanwhile sends it whole."""
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
    """Note by what the file will be known to be the same; a weak one is none."""
    if etag.startswith('"'):
        note.write_text(etag)
    else:
        note.unlink(missing_ok=True)


def check_size(run: UrlFetchRun, size_bytes: int) -> None:
    """
    Raises:
        UrlRefused: it is larger than allowed.
    """
    if size_bytes > run.max_bytes:
        raise UrlRefused(
            f"The file is larger than {size_in_words(run.max_bytes)}.", "Split it and import the parts as datasets."
        )


@contextmanager
def open_url(run: UrlFetchRun, headers: dict[str, str]) -> Iterator[httpx.Response]:
    """The answer with the file, behind redirects, each of which is looked at like the first address.

    Raises:
        UrlRefused, httpx.TransportError: there is none.
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
                        f"{url.host} answered {response.status_code} {response.reason_phrase}.",
                        "Check the address. It is asked without a password; what needs one is uploaded as a file.",
                    )
                yield response
                return
            finally:
                response.close()
    raise UrlRefused(f"{run.url} redirects more than {MAX_REDIRECTS} times.", "Give the address it ends at.")


def pinned_request(
    client: httpx.Client, url: httpx.URL, headers: dict[str, str], *, allow_private: bool
) -> httpx.Request:
    """A request that goes to an address which was looked at; certificates are still checked against the name.

    Raises:
        UrlRefused: one of its addresses is not public.
        OSError: the name is not known.
    """
    if url.scheme not in ({"https", "http"} if allow_private else {"https"}):
        raise UrlRefused(f"{url.scheme}:// is not fetched from.", "Give an address that begins with https://.")
    try:
        address = look_up(url.host, allow_private=allow_private)
    except NotPublic as error:
        raise UrlRefused(
            f"{url.host} is an address inside a network, which the hub does not fetch from.",
            "Upload the file, or have whoever runs the hub set FINETUNE_HUB_ALLOW_PRIVATE_URLS=1.",
        ) from error
    host = url.netloc.decode("ascii").rpartition("@")[2]
    extensions = {"sni_hostname": url.host}
    return client.build_request(
        "GET", url.copy_with(host=str(address)), headers=headers | {"Host": host}, extensions=extensions
    )


def main() -> int:
    run = UrlFetchRun.model_validate_json(Path(sys.argv[2]).read_text())
    return ended(lambda: fetch(run), run.output_dir)


if __name__ == "__main__":
    sys.exit(main())
