"""Downloads: the very bytes, one by one and as a zip; a path that leads elsewhere finds nothing."""

from __future__ import annotations

import hashlib
import io
import zipfile

import pytest
from django.conf import settings
from django.urls import reverse

from finetune_hub.artifacts.store import shared_store
from tests.dashboard.conftest import World


def test_a_file_is_what_its_hash_says(world: World) -> None:
    for file in world.version.files.all():
        url = reverse("adapter-file", args=[world.version.adapter_id, 1, file.path])
        response = world["viewer"].get(url)
        content = b"".join(response.streaming_content)
        assert hashlib.sha256(content).hexdigest() == file.sha256
        assert int(response["Content-Length"]) == len(content) == file.size_bytes
        assert f'filename="{file.path}"' in response["Content-Disposition"]


def test_the_zip_holds_every_file(world: World) -> None:
    response = world["viewer"].get(reverse("adapter-zip", args=[world.version.adapter_id, 1]))
    content = b"".join(response.streaming_content)
    assert int(response["Content-Length"]) == len(content)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        assert archive.testzip() is None
        found = {info.filename: hashlib.sha256(archive.read(info)).hexdigest() for info in archive.infolist()}
    assert found == {f"tickets-tiny-v1/{file.path}": file.sha256 for file in world.version.files.all()}


@pytest.mark.parametrize("path", ["../secrets", "a/../../b", "%2e%2e/secrets", "/etc/passwd", "missing.bin"])
def test_a_path_that_is_not_in_the_version(world: World, path: str) -> None:
    response = world["owner"].get(f"/adapters/{world.version.adapter_id}/1/files/{path}")
    page = response.content.decode()
    assert response.status_code == 404
    assert "outside the adapter" in page or "has no file" in page
    assert "adapter_model.safetensors" in page or "without &#x27;..&#x27;" in page


def test_a_version_that_is_not_there(world: World) -> None:
    assert world["owner"].get(reverse("adapter-zip", args=[world.version.adapter_id, 2])).status_code == 404


def test_a_file_that_the_store_has_lost(world: World) -> None:
    shared_store(settings.ARTIFACT_URL).delete(f"{world.version.artifact_prefix}/adapter_config.json")
    url = reverse("adapter-file", args=[world.version.adapter_id, 1, "adapter_config.json"])
    response = world["owner"].get(url)
    assert response.status_code == 503
    assert "did not return the file" in response.content.decode()
