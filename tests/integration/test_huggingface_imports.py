"""Base models and datasets from Hugging Face, by a whole running hub: cancelled, resumed, and no secret left."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from finetune_hub.cli.answers import JobDetail
from finetune_hub.cli.client import Hub
from tests.fake_huggingface import COMMIT, TOKEN, FakeHuggingFace, Repository
from tests.integration.conftest import RunningHub, wait_until
from tests.tiny_models import make_chat_rows, make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

CHUNK_BYTES = 10 << 20


def ended(client: Hub, job_id: str) -> JobDetail:
    return list(client.watch(job_id, poll_seconds=0.2))[-1].job


def test_a_cancelled_import_goes_on_from_what_is_there(
    hub: RunningHub, fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    folder = make_tiny_model(tmp_path / "published", hidden=1024, layers=3)
    size_bytes = (folder / "model.safetensors").stat().st_size
    assert size_bytes > 3 * CHUNK_BYTES
    fake_huggingface.repositories["models/team/large"] = Repository(folder)
    fake_huggingface.stops_at = 2 * CHUNK_BYTES
    with hub.client() as client:
        first = client.import_base_model("large", "hf:team/large@main")
        partial = hub.home / "cache" / "downloads" / first.id / "model.safetensors.part"
        wait_until(
            lambda: partial.is_file() and partial.stat().st_size >= CHUNK_BYTES, seconds=60, what="the first chunk"
        )
        client.cancel(first.job_id)
        assert ended(client, first.job_id).state == "cancelled"
        assert client.base_models("large")[0].state == "failed"

        fake_huggingface.stops_at = None
        fake_huggingface.asked.clear()
        second = client.import_base_model("large", "hf:team/large@main")
        job = ended(client, second.job_id)
        assert job.state == "succeeded", job
        model = client.base_model(second.id)
    starts = [asked.start for asked in fake_huggingface.asked if asked.name == "model.safetensors"]
    assert starts[0] >= CHUNK_BYTES
    assert (model.state, model.commit, model.access, model.license) == ("ready", COMMIT, "open", "mit")
    assert "config.json" not in [asked.name for asked in fake_huggingface.asked]
    assert not list((hub.home / "cache" / "downloads").glob("bm-*"))


def test_a_gated_model_needs_the_teams_token_which_stays_secret(
    hub: RunningHub, fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    fake_huggingface.repositories["models/team/gated"] = Repository(make_tiny_model(tmp_path / "published"), gated=True)
    with hub.client() as client:
        refused = ended(client, client.import_base_model("gated", "hf:team/gated").job_id)
        assert refused.failure.failure_class == "bad_config"
        assert "team/gated is gated" in refused.failure.message
        assert client.set_huggingface_token(TOKEN).is_set
        job = ended(client, client.import_base_model("gated", "hf:team/gated").job_id)
        assert job.state == "succeeded", job
        model = client.base_models("gated")[0]
        assert (model.access, model.commit) == ("gated", COMMIT)
        assert client.remove_huggingface_token().model_dump() == {"is_set": False, "set_by": None, "set_at": None}
    assert f"Bearer {TOKEN}" in fake_huggingface.tokens
    found = subprocess.run(["grep", "-rl", TOKEN, hub.home], capture_output=True, text=True, check=False)
    assert (found.stdout, found.stderr) == ("", "")
    rows = all_rows(hub)
    assert "hub_token_set" in rows
    assert TOKEN not in rows


def all_rows(hub: RunningHub) -> str:
    """Every table of the database, as text."""
    code = (
        "from django.db import connection as c; cursor = c.cursor(); "
        "[print(cursor.execute(f'SELECT row_to_json(t)::text FROM \"{name}\" t').fetchall()) "
        "for name in c.introspection.table_names()]"
    )
    return hub.manage("shell", "--no-imports", "-c", code)


def test_a_dataset_comes_from_the_hub_with_its_origin(
    hub: RunningHub, fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    (folder / "data").mkdir(parents=True)
    make_chat_rows(folder / "data" / "train-00000-of-00002.jsonl", 30, seed=1)
    make_chat_rows(folder / "data" / "train-00001-of-00002.jsonl", 20, seed=2)
    make_chat_rows(folder / "data" / "test.jsonl", 10, seed=3)
    fake_huggingface.repositories["datasets/team/rows"] = Repository(folder, license="cc-by-4.0")
    with hub.client() as client:
        job = ended(client, client.import_dataset("hub-rows", "hf:team/rows@main:train").id)
        assert job.state == "succeeded", job
        assert job.base_model is None
        version = client.dataset_version("hub-rows")
        assert version.row_count == job.result["row_count"]
        assert version.source == f"hf:team/rows@{COMMIT}:train"
        assert version.license == "cc-by-4.0"

        failed = ended(client, client.import_dataset("hub-rows", "hf:team/rows:validation").id)
        assert "no file or split 'validation'" in failed.failure.message
        assert "data/test.jsonl" in failed.failure.remedy


def test_a_dataset_comes_from_an_address_and_is_checked(
    hub: RunningHub, fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "rows.csv").write_text("question,answer\n2 + 2?,4\n3 + 3?,\n")
    fake_huggingface.repositories["datasets/team/table"] = Repository(folder)
    url = f"{fake_huggingface.url}/datasets/team/table/resolve/main/rows.csv"
    with hub.client() as client:
        job = ended(client, client.import_dataset("table", url).id)
        assert (job.state, job.failure.failure_class) == ("failed", "bad_data")
        job = ended(client, client.import_dataset("table", url, quarantine=True).id)
        assert job.state == "succeeded", job
        version = client.dataset_version("table")
    assert (version.row_count, version.rejected_count) == (1, 1)
    assert re.fullmatch(rf"{re.escape(url)} \(SHA-256 [0-9a-f]{{64}}\)", version.source)


def test_unknown_columns_are_told_and_can_be_mapped(
    hub: RunningHub, fake_huggingface: FakeHuggingFace, tmp_path: Path
) -> None:
    folder = tmp_path / "published"
    folder.mkdir()
    (folder / "rows.csv").write_text("frage,antwort\n2 + 2?,4\n")
    fake_huggingface.repositories["datasets/team/foreign"] = Repository(folder)
    url = f"{fake_huggingface.url}/datasets/team/foreign/resolve/main/rows.csv"
    with hub.client() as client:
        job = ended(client, client.import_dataset("foreign", url).id)
        assert job.result == {"unknown_columns": ["antwort", "frage"]}
        assert "--map COLUMN=PART" in job.failure.remedy
        mapping = {"frage": "user", "antwort": "assistant"}
        job = ended(client, client.import_dataset("foreign", url, mapping=mapping).id)
        assert (job.state, job.result["row_count"]) == ("succeeded", 1), job


def test_an_uploaded_gguf_file_becomes_a_base_model(hub: RunningHub, tmp_path: Path) -> None:
    from tests.engine.test_import_model import write_gguf

    file = write_gguf(make_tiny_model(tmp_path / "base"), tmp_path / "tiny.gguf")
    with hub.client() as client:
        pushed = client.push_base_model(file, "pushed")
        job = ended(client, pushed.job_id)
        assert job.state == "succeeded", job
        model = client.base_model(pushed.id)
    assert (model.source, model.license, model.state) == ("upload:tiny.gguf", "mit", "ready")
    uploaded = "artifacts/base-models/*/upload/*"  # Deleted once the job's end is committed.
    wait_until(lambda: not list(hub.home.glob(uploaded)), seconds=10, what="the uploaded file is deleted")
    assert not list(hub.home.glob("uploads/*"))
