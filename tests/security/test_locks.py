"""What takes long holds no lock: files are hashed, read and stored before a transaction begins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db import connection
from django.db.models.functions import Now

from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.artifacts.local import LocalStore
from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog import actions
from finetune_hub.catalog.actions import add_dataset_version
from finetune_hub.catalog.models import DatasetVersion, Deletion
from finetune_hub.catalog.split import split_version
from finetune_hub.jobs.kinds import training
from finetune_hub.jobs.kinds.base_model_import import import_uploaded_model
from finetune_hub.jobs.kinds.training import submit_training
from finetune_hub.operations.deletion.actions import begin_purge, delete_thing, finish_purge
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.spec.refusal import Refusal
from tests.factories import first_member, make_base_model, make_dataset_version, make_member, make_spec, make_team

pytestmark = pytest.mark.django_db
Rows = Callable[..., Path]


@pytest.fixture
def team() -> Team:
    return make_team()


@pytest.fixture
def user(team: Team) -> User:
    return make_member(team, Role.ADMIN)


@pytest.fixture
def rows(tmp_path: Path) -> Rows:
    def write(*, spaces: int = 0) -> Path:
        """The same rows each time; the files differ in the spaces of their JSON."""
        path = tmp_path / f"rows-{spaces}.jsonl"
        messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]
        lines = [json.dumps({"messages": [*messages, *messages[: 2 * n]]}) + " " * spaces for n in range(2)]
        path.write_text("\n".join(lines) + "\n")
        return path

    return write


@pytest.fixture
def long_work(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was called that may take long. Each call fails inside a transaction, the test's own one aside."""
    called, around = list[str](), len(connection.savepoint_ids)

    def watch(owner: Any, name: str) -> None:
        work = getattr(owner, name)

        def watched(*arguments: Any, **options: Any) -> Any:
            assert len(connection.savepoint_ids) == around, f"{name} is called inside a transaction"
            called.append(name)
            return work(*arguments, **options)

        monkeypatch.setattr(owner, name, watched)

    watch(LocalStore, "put")
    watch(actions, "sha256_of")
    watch(actions, "look_at")
    watch(training, "memory_needed")
    return called


def test_nothing_is_hashed_read_or_stored_inside_a_transaction(
    team: Team, user: User, rows: Rows, long_work: list[str], tmp_path: Path
) -> None:
    version = add_dataset_version(team, user, name="tickets", file=rows(), filename="rows.jsonl")
    assert add_dataset_version(team, user, name="tickets", file=rows(spaces=1), filename="other.jsonl") == version
    delete_thing(Target("dataset", version.dataset_id), user)
    assert add_dataset_version(team, user, name="tickets", file=rows(), filename="rows.jsonl") == version
    larger = make_dataset_version(team, "larger")
    split_version(larger, user, fraction=0.5, seed=1)
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF and more")
    import_uploaded_model(team, user, name="uploaded", file=model, file_name="model.gguf")
    make_base_model(team)
    submit_training(team, user, make_spec())
    assert set(long_work) == {"put", "sha256_of", "look_at", "memory_needed"}


def test_of_two_uploads_of_the_same_rows_one_stays_with_the_file_that_it_came_in(
    team: Team, user: User, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second one comes whole while the first one stores its files."""
    put, second = LocalStore.put, list[DatasetVersion]()

    def put_after_another(store: LocalStore, key: str, source: Path) -> None:
        monkeypatch.setattr(LocalStore, "put", put)
        second.append(add_dataset_version(team, user, name="tickets", file=rows(spaces=1), filename="b.jsonl"))
        put(store, key, source)

    monkeypatch.setattr(LocalStore, "put", put_after_another)
    first = add_dataset_version(team, user, name="tickets", file=rows(), filename="a.jsonl")
    assert second == [first]
    store = shared_store(settings.ARTIFACT_URL)
    assert sorted(store.keys(f"datasets/{first.dataset_id}")) == sorted(first.keys)
    with store.open(first.original_key) as original:
        assert hashlib.sha256(original.read()).hexdigest() == first.original_sha256


def test_a_version_that_came_back_keeps_its_files(team: Team, user: User, rows: Rows) -> None:
    """Its deletion was slower than the next upload of its rows."""
    version = add_dataset_version(team, user, name="tickets", file=rows(), filename="rows.jsonl")
    deletion = delete_thing(Target("dataset", version.dataset_id), user)
    Deletion.objects.filter(pk=deletion.pk).update(purge_after=Now())
    begin_purge(deletion.pk)
    again = add_dataset_version(team, user, name="tickets", file=rows(), filename="rows.jsonl")
    finish_purge(shared_store(settings.ARTIFACT_URL), deletion.pk)
    assert again == version
    shared_store(settings.ARTIFACT_URL).open(again.artifact_key).close()


def test_a_name_that_was_taken_meanwhile_leaves_no_file(team: Team, user: User, tmp_path: Path) -> None:
    model = tmp_path / "model.gguf"
    model.write_bytes(b"GGUF and more")
    make_base_model(team, "taken")
    with pytest.raises(Refusal, match="already has a base model"):
        import_uploaded_model(team, first_member(team), name="taken", file=model, file_name="model.gguf")
