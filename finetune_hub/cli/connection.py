"""A connection to one hub over HTTP: requests, answers as models, files in parts, and refusals as exceptions.

What answers is read by the models of `answers.py`, made from the API's own schema, and by those that the hub and the
command line share. A field that the hub adds is kept; one that is missing says which version the hub should have.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import httpx
import tenacity
from pydantic import BaseModel, ValidationError

from finetune_hub.artifacts.manifest import CorruptArtifact, sha256_of, verify_files
from finetune_hub.cli.answers import ErrorBody, Upload
from finetune_hub.spec.answer import Answer
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.refusal import Refusal

Found = TypeVar("Found", bound=BaseModel)

TIMEOUT_SECONDS = 30.0
UPLOAD_TIMEOUT_SECONDS = 600.0
PART_BYTES = 8 << 20
POLL_SECONDS = 1.0
MAX_PAUSE_SECONDS = 5.0
# A web process that restarts is back well within this time; until then whoever sends or watches waits.
OUTAGE_SECONDS = 60.0
DOWNLOAD_TRIES = 3
SERVER_ERROR = 500
PASSING = frozenset({"unreachable", "unexpected_answer", "too_many_requests"})


class HubError(Refusal):
    """The hub refused, or could not be reached: the same code, message, remedy and details as in the API's answer.

    Attributes:
        status: the answer's HTTP status; None when there was no answer.
    """

    def __init__(
        self,
        code: str,
        message: str,
        remedy: str,
        *,
        field: str | None = None,
        details: Sequence[dict[str, Any]] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(code, message, remedy, field=field, details=details)
        self.status = status

    @property
    def is_outage(self) -> bool:
        """Nobody answered, or what answered could not yet: trying again may help."""
        return self.code in PASSING or (self.status or 0) >= SERVER_ERROR


class Page(Answer, Generic[Found]):
    """A part of a list; `next` asks for the part behind it, as `cursor` or as `after`."""

    data: list[Found]
    next: str | int | None


class HubConnection:
    """Requests as the user and team of a token. Every method raises `HubError`."""

    def __init__(self, url: str, token: str) -> None:
        self.url = url.rstrip("/")
        self._http = httpx.Client(
            base_url=f"{self.url}/api/",
            headers={"Authorization": f"Bearer {token}"},
            timeout=TIMEOUT_SECONDS,
            transport=httpx.HTTPTransport(retries=2),
        )

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _list(self, page: type[Page[Found]], path: str, *, limit: int = 1000, **query: Any) -> list[Found]:
        """The first rows of a list, gathered from its pages."""
        rows: list[Found] = []
        query = {key: value for key, value in query.items() if value is not None}
        while True:
            found = self._get(page, path, limit=min(200, limit - len(rows)), **query)
            rows += found.data
            if found.next is None or len(rows) >= limit:
                return rows
            query["cursor"] = found.next

    def _all_after(self, page: type[Page[Found]], path: str, after: int) -> list[Found]:
        rows: list[Found] = []
        following: str | int | None = after
        while following is not None:
            part = self._get(page, path, after=following)
            rows += part.data
            following = part.next
        return rows

    def _get(self, answer: type[Found], path: str, **query: Any) -> Found:
        return self._ask(answer, "GET", path, params=query)

    def _ask(self, answer: type[Found], method: str, path: str, **request: Any) -> Found:
        return read(answer, self._send(method, path, **request))

    def _send(self, method: str, path: str, **request: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **request)
        except (httpx.TransportError, httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
            raise HubError(
                "unreachable",
                f"The hub at {self.url} does not answer: {error}.",
                "Check the address, and that it runs: `finetune-hub status` on its machine.",
            ) from error
        if response.is_error or response.is_redirect:
            raise refusal_of(response)
        return response

    def _upload_in_parts(self, path: Path) -> str:
        """Send the file, waiting for outages up to a minute each; the id of the whole upload."""
        body = {"file_name": path.name, "size_bytes": path.stat().st_size, "fingerprint": f"sha256:{sha256_of(path)}"}
        upload = self._ask(Upload, "POST", "uploads", json=body)
        with path.open("rb") as file:
            while upload.received_bytes < upload.size_bytes:
                file.seek(upload.received_bytes)
                upload = through_outages()(
                    self._ask,
                    Upload,
                    "PUT",
                    f"uploads/{upload.id}",
                    params={"offset": upload.received_bytes},
                    content=file.read(PART_BYTES),
                    headers={"Content-Type": "application/octet-stream"},
                    timeout=UPLOAD_TIMEOUT_SECONDS,
                )
        return upload.id

    def _download(self, folder: str, entry: FileEntry, target: Path) -> None:
        """Fetch one file and verify it; a broken connection is tried again."""
        broken = (httpx.TransportError, CorruptArtifact)
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(broken),
            stop=tenacity.stop_after_attempt(DOWNLOAD_TRIES),
            wait=tenacity.wait_random_exponential(),
            reraise=True,
        )
        try:
            tries(self._download_once, folder, entry, target)
        except broken as error:
            (target / entry.path).unlink(missing_ok=True)
            raise HubError(
                "download_failed",
                f"{entry.path} could not be downloaded whole: {error}",
                "Run the command again: it keeps the files that are whole.",
            ) from error

    def _download_once(self, folder: str, entry: FileEntry, target: Path) -> None:
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched = path.with_name(f"{path.name}.part")
        # A hub over S3 may send us to its store; httpx keeps our token from it.
        address = f"{folder}/{entry.path}"
        with self._http.stream("GET", address, follow_redirects=True) as response, fetched.open("wb") as file:
            if response.is_error:
                response.read()
                raise refusal_of(response)
            for chunk in response.iter_bytes():
                file.write(chunk)
        fetched.replace(path)
        verify_files(target, [entry])


def through_outages(poll_seconds: float = POLL_SECONDS) -> tenacity.Retrying:
    """Calls again while the hub cannot answer, up to a minute. Pauses are drawn: many clients come back apart."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, HubError) and error.is_outage),
        stop=tenacity.stop_after_delay(OUTAGE_SECONDS),
        wait=tenacity.wait_random_exponential(multiplier=poll_seconds, max=MAX_PAUSE_SECONDS),
        reraise=True,
    )


def is_whole(folder: Path, entries: Sequence[FileEntry]) -> bool:
    """Whether the folder has all these files as they should be."""
    try:
        verify_files(folder, entries)
    except CorruptArtifact:
        return False
    return True


def refusal_of(response: httpx.Response) -> HubError:
    """The error that an answer of 3xx, 4xx or 5xx carries."""
    try:
        error = ErrorBody.model_validate_json(response.content).error
    except ValidationError:
        return unexpected(response)
    return HubError(
        error.code,
        error.message,
        error.remedy,
        field=error.field,
        details=error.details,
        status=response.status_code,
    )


def read(answer: type[Found], response: httpx.Response) -> Found:
    """The answer as a model.

    Raises:
        HubError: `unexpected_answer`, or `other_version` where the hub speaks otherwise than this client.
    """
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise (other_version(error) if error.errors()[0]["loc"] else unexpected(response)) from error


def other_version(error: ValidationError) -> HubError:
    """What a hub says that speaks otherwise than this client."""
    first, ours = error.errors()[0], version("finetune_hub")
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return HubError(
            "other_version",
            f"The hub's answer lacks `{field}`, which finetune_hub {ours} here reads: the hub is older.",
            f"Upgrade the hub to {ours} or newer, or install the hub's own version here.",
        )
    return HubError(
        "other_version",
        f"`{field}` in the hub's answer is nothing that finetune_hub {ours} here can read.",
        "Install the hub's own version here; `/api/schema` on the hub names it.",
    )


def unexpected(response: httpx.Response) -> HubError:
    return HubError(
        "unexpected_answer",
        f"{response.url} answered {response.status_code}, and not as a hub does.",
        "Check the address: is it finetune_hub's, without a path? Is a proxy in between?",
        status=response.status_code,
    )
