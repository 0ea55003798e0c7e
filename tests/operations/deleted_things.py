"""One of each kind that can be deleted, with its files, and what a test asks about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.db.models.functions import Now

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.models import BaseModel, Dataset, Deletion
from finetune_hub.jobs.models import AttemptState, Checkpoint, Job, JobState
from finetune_hub.operations.deletion.actions import (
    DELETABLE,
)
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.operations.store_check import ROOMS
from finetune_hub.registry.models import Adapter
from finetune_hub.spec.refusal import Refusal
from tests.factories import (
    make_adapter_version,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
)

KINDS = sorted(DELETABLE)


@dataclass
class Thing:
    """One of each kind, that nothing needs, and how a list of the team shows it."""

    target: Target
    is_listed: Callable[[], bool]


def make_thing(kind: str, team: Team) -> Thing:
    if kind == "adapter":
        adapter = make_adapter_version(team).adapter
        return Thing(Target(kind, adapter.pk), Adapter.objects.of_team(team).for_list().filter(pk=adapter.pk).exists)
    if kind == "dataset":
        dataset = make_dataset_version(team, "idle").dataset
        return Thing(Target(kind, dataset.pk), Dataset.objects.of_team(team).for_list().filter(pk=dataset.pk).exists)
    if kind == "base_model":
        model = make_base_model(team, "idle")
        return Thing(Target(kind, model.pk), BaseModel.objects.of_team(team).filter(pk=model.pk).exists)
    job = make_ended_job(team)
    return Thing(Target(kind, job.pk), Job.objects.of_team(team).for_list().filter(pk=job.pk).exists)


def make_ended_job(team: Team, state: JobState = JobState.FAILED, **columns: Any) -> Job:
    """With one checkpoint, whose file is in the store."""
    failure = {"failure_class": "internal"} if state == JobState.FAILED else {}
    job = make_job(team, state=state, finished_at=Now(), **failure, **columns)
    attempt = make_attempt(job, state=AttemptState.LOST, finished_at=Now(), log_tail="the last words")
    put(f"{attempt.artifact_prefix}/checkpoints/step-1/state.json", "x" * 1000)
    entry = {"path": "state.json", "size_bytes": 1000, "sha256": "0" * 64}
    prefix = f"{attempt.artifact_prefix}/checkpoints/step-1"
    Checkpoint.objects.create(job=job, attempt=attempt, step=1, artifact_prefix=prefix, manifest=[entry])
    return job


def put(key: str, text: str) -> None:
    store = shared_store(settings.ARTIFACT_URL)
    folder = Path(settings.HOME) / "tmp"
    folder.mkdir(parents=True, exist_ok=True)
    source = folder / "put"
    source.unlink(missing_ok=True)  # The store may have linked it.
    source.write_text(text)
    store.put(key, source)


def stored_bytes(store: ArtifactStore) -> int:
    return sum(size for room in ROOMS for _, size in store.sizes(room))


def end_grace(deletion: Deletion) -> None:
    Deletion.objects.filter(pk=deletion.pk).update(purge_after=Now() - timedelta(seconds=1))


def refusal_of(do: Callable[[], object]) -> Refusal:
    with pytest.raises(Refusal) as refused:
        do()
    return refused.value
