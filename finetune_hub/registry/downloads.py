"""Downloads of adapter files: one file, or a whole version as a zip, streamed from the artifact store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Generator, Iterator
from contextlib import closing
from typing import BinaryIO, Protocol
from urllib.parse import urlsplit, urlunsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, HttpResponseRedirect, StreamingHttpResponse
from django.utils.http import content_disposition_header
from zipstream import ZipStream  # type: ignore[import-untyped]

from finetune_hub.artifacts.manifest import CHUNK_BYTES
from finetune_hub.artifacts.store import shared_store
from finetune_hub.registry.models import AdapterFile, AdapterVersion
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


def stream_file(version: AdapterVersion, path: str) -> Chunks:
    """Stream the file's bytes. The file is opened immediately, so that errors occur before the first byte.

    Raises:
        Refusal: see `find_file`.
        ArtifactError: the store does not have it.
    """
    find_file(version, path)
    return FileChunks(shared_store(settings.ARTIFACT_URL).open(f"{version.artifact_prefix}/{path}"))


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
    chunks: Chunks,
    *,
    filename: str,
    size_bytes: int,
    content_type: str = "application/octet-stream",
) -> StreamingHttpResponse:
    """Return a download. Under ASGI it gets an async iterator, as Django would collect a plain one in memory."""
    content = _OffTheLoop(chunks) if isinstance(request, ASGIRequest) else chunks
    response = StreamingHttpResponse(content, content_type=content_type)
    response["Content-Length"] = str(size_bytes)
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename) or "attachment"
    return response


class FileChunks(Iterator[bytes]):
    """An open file's bytes in chunks. Unlike a generator, it closes the file even if it was never started."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def __next__(self) -> bytes:
        if chunk := self._file.read(CHUNK_BYTES):
            return chunk
        self.close()
        raise StopIteration

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
        chunks = _opened_when_due(store.open, f"{version.artifact_prefix}/{entry.path}")
        archive.add(chunks, f"{folder_name(version)}/{entry.path}", size=entry.size_bytes)
    return archive


def _opened_when_due(open_key: Callable[[str], BinaryIO], key: str) -> Iterator[bytes]:
    with closing(FileChunks(open_key(key))) as chunks:
        yield from chunks
