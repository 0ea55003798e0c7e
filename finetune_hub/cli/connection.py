"""HTTP connection to a hub: requests, responses as models, uploads in parts, and refusals as exceptions.

Responses are parsed with the models in `answers.py`, generated from the API's schema, and with models that the hub and
the command line share. Unknown fields are kept; for a missing field, the error names the hub version to use.
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
# How long to wait for a restarting web process, which takes much less.
OUTAGE_SECONDS = 60.0
DOWNLOAD_TRIES = 3
SERVER_ERROR = 500
DISK_FULL = "disk_full"
PASSING = frozenset({"unreachable", "unexpected_answer", "too_many_requests"})


class HubError(Refusal):
    """The hub refused a request or was unreachable, with the code, message, remedy and details of the API's response.

    Attributes:
        status: the response's HTTP status; None without a response.
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
        """Whether the hub was unreachable or temporarily failed, so that a retry may help."""
        return self.code in PASSING or (self.status or 0) >= SERVER_ERROR

    @property
    def may_pass(self) -> bool:
        """Whether the outage may end by itself; a full disk does not."""
        return self.is_outage and self.code != DISK_FULL


class Page(Answer, Generic[Found]):
    """A part of a list. Send `next` as `cursor` or `after` to get the next part."""

    data: list[Found]
    next: str | int | None


class HubConnection:
    """Requests with a token. Every method raises `HubError`."""

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
        """Return the first rows of a list, collected from its pages."""
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
                f"The hub at {self.url} does not respond: {error}.",
                "Check the URL and that the hub is running: `finetune-hub status` on its machine.",
            ) from error
        if response.is_error or response.is_redirect:
            raise refusal_of(response)
        return response

    def _upload_in_parts(self, path: Path) -> str:
        """Send the file in parts, waiting up to a minute per outage. Return the upload's id."""
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
        """Download a file and verify it. After connection errors it retries, and resumes where it stopped."""
        broken = (httpx.TransportError, CorruptArtifact)
        tries = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(broken),
            stop=tenacity.stop_after_attempt(DOWNLOAD_TRIES),
            wait=tenacity.wait_random_exponential(),
            reraise=True,
        )
        try:
            tries(self._download_once, folder, entry, target)
        except CorruptArtifact as error:
            raise HubError(
                "download_failed",
                f"{entry.path} is not the file that the hub lists, and was deleted: {error.problem.message}",
                "Run the command again. If it fails again, tell the hub's operator, and look for a proxy in between.",
            ) from error
        except httpx.TransportError as error:
            raise HubError(
                "download_failed",
                f"{entry.path} could not be downloaded completely: {error}",
                "Run the command again: it resumes where it stopped.",
            ) from error

    def _download_once(self, folder: str, entry: FileEntry, target: Path) -> None:
        """Download what is still missing of a file, and verify it.

        Raises:
            CorruptArtifact: what came is not the file. It is deleted, so that the next try starts from the beginning.
        """
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched = path.with_name(f"{path.name}.part")
        if not fetched.is_file() or fetched.stat().st_size < entry.size_bytes:
            self._append_missing(folder, entry, fetched)
        fetched.replace(path)
        try:
            verify_files(target, [entry])
        except CorruptArtifact:
            path.unlink()
            raise

    def _append_missing(self, folder: str, entry: FileEntry, fetched: Path) -> None:
        have = fetched.stat().st_size if fetched.is_file() else 0
        headers = {"Range": f"bytes={have}-"} if have else {}
        # A hub on S3 may redirect to its store; httpx does not send our token there.
        address = f"{folder}/{entry.path}"
        with self._http.stream("GET", address, headers=headers, follow_redirects=True) as response:
            if have and response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                fetched.unlink()
                raise CorruptArtifact(f"{entry.path} has fewer bytes there than the {have:,} that are here.")
            if response.is_error:
                response.read()
                raise refusal_of(response)
            resumes = response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
            with fetched.open("ab" if resumes else "wb") as file:
                for chunk in response.iter_bytes():
                    file.write(chunk)
                size_bytes = file.tell()
        if size_bytes < entry.size_bytes:
            raise httpx.ReadError(f"only {size_bytes:,} of {entry.size_bytes:,} bytes came")


def through_outages(poll_seconds: float = POLL_SECONDS) -> tenacity.Retrying:
    """Retry during outages of the hub, up to a minute, with random backoff so that clients do not retry together."""
    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, HubError) and error.may_pass),
        stop=tenacity.stop_after_delay(OUTAGE_SECONDS),
        wait=tenacity.wait_random_exponential(multiplier=poll_seconds, max=MAX_PAUSE_SECONDS),
        reraise=True,
    )


def is_whole(folder: Path, entries: Sequence[FileEntry]) -> bool:
    """Return whether the folder has all these files, intact."""
    try:
        verify_files(folder, entries)
    except CorruptArtifact:
        return False
    return True


def refusal_of(response: httpx.Response) -> HubError:
    """Return the error in a 3xx, 4xx or 5xx response."""
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
    """Parse the response into the model.

    Raises:
        HubError: `unexpected_answer`, or `other_version` if the hub's version does not match this client.
    """
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as error:
        raise (other_version(error) if error.errors()[0]["loc"] else unexpected(response)) from error


def other_version(error: ValidationError) -> HubError:
    """Return the error for a response that does not match this client's version."""
    first, ours = error.errors()[0], version("finetune_hub")
    field = ".".join(map(str, first["loc"]))
    if first["type"] == "missing":
        return HubError(
            "other_version",
            f"The hub's response lacks `{field}`, which this finetune_hub {ours} needs. The hub is older.",
            f"Upgrade the hub to {ours} or newer, or install the hub's version here.",
        )
    return HubError(
        "other_version",
        f"This finetune_hub {ours} cannot read `{field}` in the hub's response.",
        "Install the hub's version here; `/api/schema` on the hub shows it.",
    )


def unexpected(response: httpx.Response) -> HubError:
    return HubError(
        "unexpected_answer",
        f"{response.url} sent an unexpected response with status {response.status_code}.",
        "Check that the URL is that of a hub, without a path, and that no proxy interferes.",
        status=response.status_code,
    )
