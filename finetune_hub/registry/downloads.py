"""Adapter files on their way to a client: one file, or a whole version as a zip, streamed from the artifact store."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import BinaryIO
from urllib.parse import urlsplit, urlunsplit

from asgiref.sync import sync_to_async
from django.conf import settings
from django.core.handlers.asgi import ASGIRequest
from django.http import HttpRequest, StreamingHttpResponse
from django.utils.http import content_disposition_header
from zipstream import ZipStream  # type: ignore[import-untyped]

from finetune_hub.artifacts.manifest import CHUNK_BYTES
from finetune_hub.artifacts.store import shared_store
from finetune_hub.registry.models import AdapterFile, AdapterVersion
from finetune_hub.spec.files import InvalidArtifactPath, check_relative_path
from finetune_hub.spec.refusal import Refusal


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
            status=404,
        )
    return file


def stream_file(version: AdapterVersion, path: str) -> Iterator[bytes]:
    """The file's bytes. The file is found and opened now, so that errors come before the first byte.

    Raises:
        Refusal: see `find_file`.
        ArtifactError: the store does not have it.
    """
    find_file(version, path)
    return read_chunks(shared_store(settings.ARTIFACT_URL).open(f"{version.artifact_prefix}/{path}"))


def stream_zip(version: AdapterVersion) -> Iterator[bytes]:
    """All files of the version below one folder, uncompressed: weights do not shrink. Each is opened when it is due."""
    return iter(_zip_of(version))


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
    request: HttpRequest, chunks: Iterator[bytes], *, filename: str, size_bytes: int
) -> StreamingHttpResponse:
    """A download. Under ASGI, Django would gather a plain iterator whole in memory, so it gets an asynchronous one."""
    content = _off_the_loop(chunks) if isinstance(request, ASGIRequest) else chunks
    response = StreamingHttpResponse(content, content_type="application/octet-stream")
    response["Content-Length"] = str(size_bytes)
    response["Content-Disposition"] = content_disposition_header(as_attachment=True, filename=filename) or "attachment"
    return response


def read_chunks(file: BinaryIO) -> Iterator[bytes]:
    """The open file's bytes; it is closed at the end, or when the client goes away."""
    with file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


async def _off_the_loop(chunks: Iterator[bytes]) -> AsyncIterator[bytes]:
    read_next = sync_to_async(lambda: next(chunks, b""))
    while chunk := await read_next():
        yield chunk


def _zip_of(version: AdapterVersion) -> ZipStream:
    archive, store = ZipStream(sized=True), shared_store(settings.ARTIFACT_URL)
    for entry in version.manifest():
        chunks = _opened_when_due(store.open, f"{version.artifact_prefix}/{entry.path}")
        archive.add(chunks, f"{folder_name(version)}/{entry.path}", size=entry.size_bytes)
    return archive


def _opened_when_due(open_key: Callable[[str], BinaryIO], key: str) -> Iterator[bytes]:
    yield from read_chunks(open_key(key))
