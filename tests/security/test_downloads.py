"""Downloads over the API and from the pages: parts, what the client has already, and whose cache may keep them."""

from __future__ import annotations

import base64
import gc
import hashlib
import io
import logging
import socket
import threading
from typing import Any

import httpx
import pytest
import uvicorn
from django.conf import settings
from django.core.handlers.asgi import ASGIHandler
from django.http import HttpRequest
from django.http.response import HttpResponseBase
from django.test import Client
from django.urls import path, reverse
from zipstream import ZipStream

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.store import shared_store
from finetune_hub.registry.downloads import FileChunks, streaming_response
from finetune_hub.registry.models import AdapterVersion
from tests.api.conftest import client_with
from tests.factories import first_member, make_adapter_version, make_dataset_version, make_team, make_user


@pytest.fixture
def team(db: None) -> Team:
    return make_team(make_user())


@pytest.fixture
def version(team: Team) -> AdapterVersion:
    return make_adapter_version(team)


class Place:
    """Where a file is downloaded from, and what it is."""

    def __init__(self, client: Any, address: str, content: bytes) -> None:
        self._client, self._address, self.content = client, address, content
        self.etag = f'"{hashlib.sha256(content).hexdigest()}"'

    def get(self, method: str = "get", **headers: str) -> tuple[Any, bytes]:
        response = getattr(self._client, method)(
            self._address, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        return response, b"".join(response.streaming_content) if response.streaming else response.content


@pytest.fixture(params=["api adapter", "api dataset", "page adapter", "page dataset"])
def place(request: pytest.FixtureRequest, team: Team, version: AdapterVersion) -> Place:
    over, what = request.param.split()
    rows = make_dataset_version(team, "downloads")
    key, name, of, number = rows.artifact_key, "rows.jsonl", rows.dataset_id, rows.number
    if what == "adapter":
        name, of, number = "adapter_model.safetensors", version.adapter_id, 1
        key = f"{version.artifact_prefix}/{name}"
    with shared_store(settings.ARTIFACT_URL).open(key) as file:
        content = file.read()
    if over == "api":
        return Place(
            client_with(first_member(team), team), f"/api/{what}s/{of}/versions/{number}/files/{name}", content
        )
    browser = Client()
    browser.force_login(first_member(team))
    address = reverse("adapter-file" if what == "adapter" else "dataset-file", args=[of, number, name])
    return Place(browser, address, content)


def test_parts_and_the_whole(place: Place) -> None:
    whole, size = place.content, len(place.content)
    response, content = place.get()
    assert (response.status_code, content) == (200, whole)
    assert response["Accept-Ranges"] == "bytes"
    assert response["Cache-Control"] == "private"
    assert response["ETag"] == place.etag
    assert response["Repr-Digest"] == f"sha-256=:{base64.b64encode(hashlib.sha256(whole).digest()).decode()}:"
    for asked, start, end in (("bytes=0-9", 0, 10), ("bytes=20-", 20, size), ("bytes=-15", size - 15, size)):
        response, content = place.get(Range=asked, If_Range=place.etag)
        assert (response.status_code, content) == (206, whole[start:end])
        assert response["Content-Range"] == f"bytes {start}-{end - 1}/{size}"
        assert int(response["Content-Length"]) == end - start
    for headers in ({"Range": "bytes=0-9", "If_Range": '"another"'}, {"Range": "bytes=0-1,5-6"}):
        response, content = place.get(**headers)
        assert (response.status_code, content) == (200, whole)
    response, content = place.get(Range=f"bytes={size}-")
    assert (response.status_code, response["Content-Range"]) == (416, f"bytes */{size}")
    assert b"none of which is in the requested range" in content


def test_what_the_client_has_is_not_sent_again(place: Place) -> None:
    for known in (place.etag, f'"other", {place.etag}', f"W/{place.etag}", "*"):
        response, content = place.get(If_None_Match=known, Range="bytes=0-9")
        assert (response.status_code, content) == (304, b"")
        assert (response["ETag"], response["Cache-Control"]) == (place.etag, "private")
    assert place.get(If_None_Match='"other"')[0].status_code == 200


def test_head_says_the_same_without_the_bytes(place: Place) -> None:
    response, content = place.get("head", Range="bytes=0-9")
    assert (response.status_code, content) == (200, b"")
    assert int(response["Content-Length"]) == len(place.content)
    assert (response["ETag"], response["Accept-Ranges"]) == (place.etag, "bytes")
    assert place.get("head", If_None_Match=place.etag)[0].status_code == 304


def test_a_zip_is_made_on_the_fly_and_says_so(team: Team, version: AdapterVersion) -> None:
    browser = Client()
    browser.force_login(first_member(team))
    api = client_with(first_member(team), team)
    page, address = (
        reverse("adapter-zip", args=[version.adapter_id, 1]),
        f"/api/adapters/{version.adapter_id}/versions/1",
    )
    for client, where in ((browser, page), (api, f"{address}/archive")):
        place = Place(client, where, b"")
        response, content = place.get(Range="bytes=0-9")
        assert (response.status_code, int(response["Content-Length"])) == (200, len(content))
        assert (response["Accept-Ranges"], response["Cache-Control"]) == ("none", "private")
        head, nothing = place.get("head")
        assert (head["Content-Length"], nothing) == (response["Content-Length"], b"")


def short_file(request: HttpRequest) -> HttpResponseBase:
    return streaming_response(request, lambda: FileChunks(io.BytesIO(bytes(1000)), 5000), filename="x", size_bytes=5000)


def short_zip(request: HttpRequest) -> HttpResponseBase:
    archive = ZipStream(sized=True)
    archive.add(FileChunks(io.BytesIO(bytes(1000)), 5000), "x", size=5000)
    return streaming_response(request, lambda: iter(archive), filename="x.zip", size_bytes=len(archive))


urlpatterns = [path("file", short_file), path("zip", short_zip)]


@pytest.mark.filterwarnings("ignore::ResourceWarning")  # Django leaves the body's file open.
@pytest.mark.parametrize("what", ["file", "zip"])
def test_a_download_that_breaks_off_is_seen_by_the_client(
    what: str, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the server that the hub runs: it promises a length, and closes the connection where the bytes end early."""
    monkeypatch.setattr(logging.getLogger("uvicorn.error"), "disabled", True)  # Its record would keep that file.
    settings.ROOT_URLCONF, settings.ALLOWED_HOSTS = __name__, ["*"]
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(ASGIHandler(), lifespan="off", log_config=None))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        with pytest.raises(httpx.RemoteProtocolError, match="without sending complete message body"):
            httpx.get(f"http://127.0.0.1:{listener.getsockname()[1]}/{what}", timeout=20)
    finally:
        server.should_exit = True
        thread.join()
        listener.close()
        del server
        gc.collect()
