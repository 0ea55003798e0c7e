"""A connection to one hub over HTTP: requests, pages of lists, files in parts, and refusals as exceptions."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import httpx

from finetune_hub.artifacts.manifest import CorruptArtifact, sha256_of, verify_files
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.refusal import Refusal

Row = dict[str, Any]

TIMEOUT_SECONDS = 30.0
UPLOAD_TIMEOUT_SECONDS = 600.0
PART_BYTES = 8 << 20
POLL_SECONDS = 1.0
# A web process that restarts is back well within this time; until then whoever sends or watches waits.
OUTAGE_SECONDS = 60.0
DOWNLOAD_TRIES = 3
SERVER_ERROR = 500


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
        details: Sequence[Row] = (),
        status: int | None = None,
    ) -> None:
        super().__init__(code, message, remedy, field=field, details=details)
        self.status = status

    @property
    def is_outage(self) -> bool:
        """Nobody answered, or what answered could not: trying again may help."""
        return self.code in {"unreachable", "unexpected_answer"} or (self.status or 0) >= SERVER_ERROR


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

    def _list(self, path: str, *, limit: int = 1000, **query: Any) -> list[Row]:
        """The first rows of a list, gathered from its pages."""
        rows: list[Row] = []
        query = {key: value for key, value in query.items() if value is not None}
        while True:
            page = self._get(path, limit=min(200, limit - len(rows)), **query)
            rows += page["data"]
            if page["next"] is None or len(rows) >= limit:
                return rows
            query["cursor"] = page["next"]

    def _all_after(self, path: str, after: int) -> list[Row]:
        rows: list[Row] = []
        following: int | None = after
        while following is not None:
            part = self._get(path, after=following)
            rows += part["data"]
            following = part["next"]
        return rows

    def _get(self, path: str, **query: Any) -> Row:
        return self._send("GET", path, params=query)

    def _send(self, method: str, path: str, **request: Any) -> Row:
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
        if response.status_code == httpx.codes.NO_CONTENT:
            return {}
        try:
            answer: Row = response.json()
        except ValueError as error:
            raise unexpected(response) from error
        return answer

    def _upload_in_parts(self, path: Path) -> str:
        """Send the file, waiting for outages up to a minute each; the id of the whole upload."""
        body = {"file_name": path.name, "size_bytes": path.stat().st_size, "fingerprint": f"sha256:{sha256_of(path)}"}
        upload = self._send("POST", "uploads", json=body)
        answered_at = time.monotonic()
        with path.open("rb") as file:
            while upload["received_bytes"] < upload["size_bytes"]:
                file.seek(upload["received_bytes"])
                try:
                    upload = self._send(
                        "PUT",
                        f"uploads/{upload['id']}",
                        params={"offset": upload["received_bytes"]},
                        content=file.read(PART_BYTES),
                        headers={"Content-Type": "application/octet-stream"},
                        timeout=UPLOAD_TIMEOUT_SECONDS,
                    )
                    answered_at = time.monotonic()
                except HubError as error:
                    if not error.is_outage or time.monotonic() - answered_at > OUTAGE_SECONDS:
                        raise
                    time.sleep(POLL_SECONDS)
        return str(upload["id"])

    def _download(self, folder: str, entry: FileEntry, target: Path) -> None:
        """Fetch one file and verify it; a broken connection is tried again."""
        path = target / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        fetched = path.with_name(f"{path.name}.part")
        for tries_left in reversed(range(DOWNLOAD_TRIES)):
            try:
                address = f"{folder}/{entry.path}"
                # A hub over S3 may send us to its store; httpx keeps our token from it.
                with self._http.stream("GET", address, follow_redirects=True) as response, fetched.open("wb") as file:
                    if response.is_error:
                        response.read()
                        raise refusal_of(response)
                    for chunk in response.iter_bytes():
                        file.write(chunk)
                fetched.replace(path)
                verify_files(target, [entry])
                return
            except (httpx.TransportError, CorruptArtifact) as error:
                path.unlink(missing_ok=True)
                if not tries_left:
                    raise HubError(
                        "download_failed",
                        f"{entry.path} could not be downloaded whole: {error}",
                        "Run the command again: it keeps the files that are whole.",
                    ) from error


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
        error = response.json()["error"]
        return HubError(
            error["code"],
            error["message"],
            error["remedy"],
            field=error["field"],
            details=error["details"],
            status=response.status_code,
        )
    except (ValueError, KeyError, TypeError):
        return unexpected(response)


def unexpected(response: httpx.Response) -> HubError:
    return HubError(
        "unexpected_answer",
        f"{response.url} answered {response.status_code}, and not as a hub does.",
        "Check the address: is it finetune_hub's, without a path? Is a proxy in between?",
        status=response.status_code,
    )
