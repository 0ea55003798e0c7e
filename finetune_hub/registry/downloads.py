"""Downloads of adapter files: one file, or a whole version as a zip, streamed from the artifact store."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit, urlunsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.utils.cache import get_conditional_response
from django.utils.http import content_disposition_header
from zipstream import ZipStream  # type: ignore[import-untyped]

from finetune_hub.artifacts.manifest import CHUNK_BYTES, ArtifactError
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.registry.models import AdapterFile, AdapterVersion
from finetune_hub.registry.ranges import Span, requested_span
from finetune_hub.spec.files import InvalidArtifactPath, check_relative_path
from finetune_hub.spec.refusal import Refusal


class Chunks(Protocol):
    """An iterator of bytes with a `close` that may be called at any time."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None: ...


def find_file(version: AdapterVersion, path: str) -> AdapterFile:
    """Return the version's file with this path.

    Raises:
        Refusal: `invalid_path` for a path outside the version's folder, `unknown_file` for one it does not have.
    """
    try:
        check_relative_path(path)
    except InvalidArtifactPath as error:
        raise Refusal(
            "invalid_path",
            f"The path {path!r} points outside the adapter's folder.",
            "Use the path of a file that the version lists, without '..'.",
            field="path",
        ) from error
    file = version.files.filter(path=path).first()
    if file is None:
        raise Refusal(
            "unknown_file",
            f"{version} has no file {path!r}.",
            f"Its files are: {', '.join(version.files.values_list('path', flat=True))}.",
            field="path",
            kind="missing",
        )
    return file


def file_response(
    request: HttpRequest, key: str, *, filename: str, size_bytes: int, sha256: str, may_redirect: bool = False
) -> HttpResponseBase:
    """Respond with a stored file, or with the part of it that `Range` asks for; 304 if the client has it already.

    Stored files never change, so a part that a client has is always a part of the same file: it may resume at any time.
    The file is opened immediately, so that errors occur before the first byte.

    Args:
        sha256: the file's hash, which `ETag` and `Repr-Digest` carry; empty: unknown, so its key identifies it.
        may_redirect: redirect to the store's own URL, where the hub is set up for that.

    Raises:
        RangeRefused: the file has none of the bytes.
        ArtifactError: the store does not have it.
    """
    etag = f'"{sha256 or hashlib.sha256(key.encode()).hexdigest()}"'
    response: HttpResponseBase | None = get_conditional_response(request, etag=etag)
    if response is None and may_redirect and request.method == "GET":
        response = store_redirect(key, filename=filename)
    if response is None:
        asked = request.headers.get("Range", "")
        is_same = request.headers.get("If-Range", etag) == etag
        span = requested_span(asked, size_bytes) if is_same and request.method == "GET" else None
        wanted = span or Span(0, size_bytes)
        response = streaming_response(
            request,
            lambda: FileChunks(
                shared_store(settings.ARTIFACT_URL).open(key, start=wanted.start, length=wanted.length), wanted.length
            ),
            filename=filename,
            size_bytes=wanted.length,
        )
        response["Accept-Ranges"] = "bytes"
        if span:
            response.status_code = 206
            response["Content-Range"] = span.content_range(size_bytes)
        elif sha256:
            response["Repr-Digest"] = f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:"
    response["ETag"] = etag
    response["Cache-Control"] = "private"
    return response


def store_redirect(key: str, *, filename: str) -> HttpResponseRedirect | None:
    """Return a redirect to the store's URL of the file; None if the hub should stream it."""
    if not settings.REDIRECT_DOWNLOADS:
        return None
    url = shared_store(settings.ARTIFACT_URL).download_url(
        key, filename=filename, lifetime=settings.DOWNLOAD_ADDRESS_LIFETIME
    )
    return HttpResponseRedirect(url) if url else None


def stream_zip(version: AdapterVersion) -> Chunks:
    """Stream the version as an uncompressed zip with one folder. Each file is opened when its turn comes."""
    chunks: Generator[bytes] = iter(_zip_of(version))
    return chunks


def zip_size_bytes(version: AdapterVersion) -> int:
    """Return the exact length of `stream_zip` without reading any file."""
    return len(_zip_of(version))


def zip_name(version: AdapterVersion) -> str:
    return f"{folder_name(version)}.zip"


def folder_name(version: AdapterVersion) -> str:
    """Return the name of a download of the whole version: `support-tickets-v3`."""
    return f"{version.adapter.name}-v{version.number}"


def artifact_url(prefix: str) -> str:
    """Return the absolute URL of an artifact in the store, for readers that bypass the service."""
    store = urlsplit(settings.ARTIFACT_URL)
    return urlunsplit((store.scheme, store.netloc, f"{store.path.rstrip('/')}/{prefix}", "", ""))


def streaming_response(
    request: HttpRequest,
    open_chunks: Callable[[], Chunks],
    *,
    filename: str,
    size_bytes: int,
    content_type: str = "application/octet-stream",
) -> HttpResponseBase:
    """Return a download; for HEAD, only its headers. Under ASGI, Django would collect a plain iterator in memory.

    It names its length and cannot be resumed; a client that gets less has a broken download.
    """
    response: HttpResponseBase
    if request.method == "HEAD":
        response = HttpResponse(content_type=content_type)
    else:
        chunks = open_chunks()
        content = _OffTheLoop(chunks) if isinstance(request, ASGIRequest) else chunks
        response = StreamingHttpResponse(content, content_type=content_type)
    response["Content-Length"] = str(size_bytes)
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename) or "attachment"
    response["Accept-Ranges"] = "none"
    response["Cache-Control"] = "private"
    return response


class FileChunks(Iterator[bytes]):
    """So many bytes of an open file, in chunks. Unlike a generator, it closes the file even if it was never started."""

    def __init__(self, file: BinaryIO, size_bytes: int) -> None:
        self._file, self._left = file, size_bytes

    def __next__(self) -> bytes:
        """
        Raises:
            ArtifactError: the file ended early. The client sees it, because it gets less than was promised.
        """
        if self._left == 0:
            self.close()
            raise StopIteration
        chunk = self._file.read(min(CHUNK_BYTES, self._left))
        if not chunk:
            self.close()
            raise ArtifactError(f"A stored file is too short: {self._left:,} bytes are missing.")
        self._left -= len(chunk)
        return chunk

    def close(self) -> None:
        self._file.close()


class _OffTheLoop:
    """The chunks, each read in a thread. Django closes it when the download is complete or the client disconnects."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        read_next = sync_to_async(lambda: next(self._chunks, b""))
        while chunk := await read_next():
            yield chunk

    def close(self) -> None:
        self._chunks.close()


def _zip_of(version: AdapterVersion) -> ZipStream:
    archive, store = ZipStream(sized=True), shared_store(settings.ARTIFACT_URL)
    for entry in version.manifest():
        chunks = _opened_when_due(store, f"{version.artifact_prefix}/{entry.path}", entry.size_bytes)
        archive.add(chunks, f"{folder_name(version)}/{entry.path}", size=entry.size_bytes)
    return archive


def _opened_when_due(store: ArtifactStore, key: str, size_bytes: int) -> Iterator[bytes]:
    with closing(FileChunks(store.open(key), size_bytes)) as chunks:
        yield from chunks
