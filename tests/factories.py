"""Rows for tests: plain functions with keyword overrides that write real rows, and real files into the store."""

from __future__ import annotations

import json
import tempfile
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db.models.functions import Now
from django.utils import timezone

from finetune_hub.accounts.models import Membership, Role, Team, User
from finetune_hub.artifacts.manifest import manifest_of
from finetune_hub.artifacts.store import put_folder, shared_store
from finetune_hub.catalog.actions import keep_dataset_version
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.fleet.models import Device, DeviceKind, Worker
from finetune_hub.jobs.models import Attempt, DeviceUse, Job, JobDataset
from finetune_hub.registry.actions import add_version
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.training import DatasetChoice, TrainingSpec

_numbers = count(1)


def make_user(username: str | None = None, **columns: Any) -> User:
    """Somebody who has signed in before, by a link unless there is a `password`: to hash one takes long."""
    columns.setdefault("last_login", timezone.now() - timedelta(days=1))
    return User.objects.create_user(username or f"user{next(_numbers)}", **columns)


def make_team(*members: User, slug: str | None = None, role: Role = Role.MEMBER) -> Team:
    slug = slug or f"team{next(_numbers)}"
    team = Team.objects.create(slug=slug, name=slug.capitalize())
    Membership.objects.bulk_create(Membership(team=team, user=user, role=role) for user in members)
    return team


def first_member(team: Team) -> User:
    membership = team.memberships.order_by("pk").first()
    return membership.user if membership else make_member(team)


def make_member(team: Team, role: Role = Role.MEMBER) -> User:
    user = make_user()
    Membership.objects.create(team=team, user=user, role=role)
    return user


def chat_row(question: str = "2 + 2?", answer: str = "4") -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}


def write_rows(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def make_dataset_version(team: Team, name: str = "tickets", rows: list[dict[str, Any]] | None = None) -> DatasetVersion:
    rows = rows or [chat_row(f"{number} + 1?", str(number + 1)) for number in range(8)]
    with tempfile.TemporaryDirectory() as folder:
        file = write_rows(Path(folder) / "rows.jsonl", rows)
        return keep_dataset_version(team, first_member(team), name=name, file=file, filename="rows.jsonl")


def make_base_model(team: Team, name: str = "tiny", *, folder: Path | None = None, **columns: Any) -> BaseModel:
    """A ready base model; with a folder its files are really stored."""
    model = BaseModel.objects.create(
        team=team, name=name, source="folder:tiny", created_by=first_member(team), license="Apache-2.0"
    )
    with tempfile.TemporaryDirectory() as stand_in:
        if folder is None:
            folder = Path(stand_in)
            (folder / "config.json").write_text('{"model_type": "llama"}')
        entries = manifest_of(folder)
        prefix = f"base-models/{model.pk}"
        put_folder(shared_store(settings.ARTIFACT_URL), prefix, folder, entries)
    facts = {
        "architecture": "LlamaForCausalLM",
        "model_type": "llama",
        "parameter_count": 1_000_000,
        "layers": 4,
        "hidden_size": 128,
        "heads": 4,
        "kv_heads": 2,
        "head_dim": 32,
        "intermediate_size": 320,
        "context_length": 2048,
        "vocabulary_size": 2436,
        "tied_head": True,
        "dtype": "bfloat16",
        "size_bytes": 2_000_000,
        "chat_template_sha256": "0" * 64,
        "license": "Apache-2.0",
    }
    model.set_ready(artifact_prefix=prefix, files=entries, facts=facts | columns.pop("facts", {}))
    return model


def make_spec(**overrides: Any) -> TrainingSpec:
    document: dict[str, Any] = {"base_model": "tiny", "dataset": {"name": "tickets"}, "adapter_name": "tickets-tiny"}
    return TrainingSpec.model_validate(document | overrides)


def make_job(team: Team, **columns: Any) -> Job:
    """A training job as `submit_training` writes it, but queued; columns override."""
    user = columns.pop("created_by", None) or first_member(team)
    version = columns.pop("dataset_version", None) or make_dataset_version(team)
    base_model = columns.pop("base_model", None) or BaseModel.objects.filter(team=team).first() or make_base_model(team)
    spec = make_spec(base_model=base_model.name, dataset=DatasetChoice(name=version.dataset.name))
    defaults: dict[str, Any] = {
        "kind": "train",
        "state": "queued",
        "spec": spec.model_dump(mode="json", exclude_none=True),
    }
    job = Job.objects.create(team=team, created_by=user, base_model=base_model, **(defaults | columns))
    JobDataset.objects.create(job=job, dataset_version=version, position=0)
    job.refresh_from_db()
    return job


def make_worker(
    name: str | None = None, *, devices: int = 1, device: dict[str, Any] | None = None, **columns: Any
) -> Worker:
    """A worker in good health; `device` overrides columns of its devices."""
    worker = Worker.objects.create(name=name or f"worker{next(_numbers)}", hostname="host", version="0.1.0", **columns)
    facts = {"kind": DeviceKind.CPU, "name": "A processor, 2 cores", "memory_bytes": 24 * 2**30, "cores": 2}
    facts |= device or {}
    for index in range(devices):
        Device.objects.create(worker=worker, index=index, **facts)
    worker.refresh_from_db()
    return worker


def make_attempt(job: Job, worker: Worker | None = None, **columns: Any) -> Attempt:
    """An attempt that waits to be claimed; columns override."""
    worker = worker or make_worker()
    defaults: dict[str, Any] = {"number": job.attempts.count() + 1, "lease_expires_at": Now() + timedelta(minutes=1)}
    attempt = Attempt.objects.create(job=job, worker=worker, **(defaults | columns))
    device = worker.devices.first()
    if device and attempt.finished_at is None:
        DeviceUse.objects.create(attempt=attempt, device=device)
    attempt.refresh_from_db()
    return attempt


def make_adapter_version(team: Team, name: str = "tickets-tiny", **columns: Any) -> AdapterVersion:
    """A published adapter with two small files in the store; columns override."""
    base_model = columns.pop("base_model", None) or BaseModel.objects.filter(team=team).first() or make_base_model(team)
    version = columns.pop("dataset_version", None) or make_dataset_version(team)
    prefix = f"jobs/test/{next(_numbers)}/adapter"
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}\n')
        (folder / "adapter_model.safetensors").write_bytes(bytes(range(256)) * 16)
        entries = manifest_of(folder)
        put_folder(shared_store(settings.ARTIFACT_URL), prefix, folder, entries)
    defaults: dict[str, Any] = {
        "method": "lora",
        "step": 50,
        "artifact_prefix": prefix,
        "training_spec": make_spec(base_model=base_model.name).model_dump(mode="json", exclude_none=True),
        "summary": {"steps": 50, "final_loss": 0.12},
        "verification": {"max_difference": 0.0, "noise": 0.0, "tolerance": 1e-4, "warnings": []},
    }
    return add_version(
        team=team, name=name, base_model=base_model, dataset_versions=[version], files=entries, **(defaults | columns)
    )
