"""Adapter files on their way to a client: one file, or a whole version as a zip, streamed from the artifact store."""

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
    """Bytes in pieces, with a `close` that may come at any time."""

    def __iter__(self) -> Iterator[bytes]: ...

    def __next__(self) -> bytes: ...

    def close(self) -> None: ...


def find_file(version: AdapterVersion, path: str) -> AdapterFile:
    """The version's file of this path.

    Raises:
        Refusal: `invalid_path` for a path that leaves the version's folder, `unknown_file` for one it does not have.
    """
    try:
        check_relative_path(path)
    except InvalidArtifactPath as error:
        raise Refusal(
            "invalid_path",
            f"The path {path!r} leaves the adapter's folder.",
            "Give the path of one of its files as the version lists them, without '..'.",
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
    """The file's bytes. The file is found and opened now, so that errors come before the first byte.

    Raises:
        Refusal: see `find_file`.
        ArtifactError: the store does not have it.
    """
    find_file(version, path)
    return FileChunks(shared_store(settings.ARTIFACT_URL).open(f"{version.artifact_prefix}/{path}"))


def store_redirect(key: str, *, filename: str) -> HttpResponseRedirect | None:
    """A redirect to the store's own address of the file; None: the hub is to stream it."""
    if not settings.REDIRECT_DOWNLOADS:
        return None
    url = shared_store(settings.ARTIFACT_URL).download_url(
        key, filename=filename, lifetime=settings.DOWNLOAD_ADDRESS_LIFETIME
    )
    return HttpResponseRedirect(url) if url else None


def stream_zip(version: AdapterVersion) -> Chunks:
    """All files of the version below one folder, uncompressed: weights do not shrink. Each is opened when it is due."""
    chunks: Generator[bytes] = iter(_zip_of(version))
    return chunks


def zip_size_bytes(version: AdapterVersion) -> int:
    """The exact length of `stream_zip`, known before a byte is read."""
    return len(_zip_of(version))


def zip_name(version: AdapterVersion) -> str:
    return f"{folder_name(version)}.zip"


def folder_name(version: AdapterVersion) -> str:
    """What a download of the whole version is called: `support-tickets-v3`."""
    return f"{version.adapter.name}-v{version.number}"


def artifact_url(prefix: str) -> str:
    """The absolute address of an artifact in the store, for whoever reads the store without the service."""
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
    """A download. Under ASGI, Django would gather a plain iterator whole in memory, so it gets an asynchronous one."""
    content = _OffTheLoop(chunks) if isinstance(request, ASGIRequest) else chunks
    response = StreamingHttpResponse(content, content_type=content_type)
    response["Content-Length"] = str(size_bytes)
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename) or "attachment"
    return response


class FileChunks(Iterator[bytes]):
    """An open file's bytes in chunks. A generator would do, but one that was never begun closes nothing."""

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
    """The chunks, each read in a thread; Django closes it when the client has all, or has gone away."""

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
