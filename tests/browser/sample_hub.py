"""A hub in the middle of its day: rows and files as a team would have them, for screenshots and walks."""

from __future__ import annotations

import json
import math
import random
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.db import transaction
from django.utils import timezone

from finetune_hub.accounts.actions import add_member, change_role, create_token
from finetune_hub.accounts.huggingface_tokens import set_huggingface_token
from finetune_hub.accounts.models import Role, Team, User
from finetune_hub.catalog.aliases import set_alias
from finetune_hub.catalog.models import BaseModel
from finetune_hub.fleet.models import Device, DeviceSample
from finetune_hub.jobs.kinds.base_model_import import import_base_model
from finetune_hub.jobs.lifecycle import EventDraft, add_events, end_job, lock_job
from finetune_hub.jobs.models import Attempt, Job, JobState, MetricPoint, Publication
from finetune_hub.registry.model_card import write_card
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.problem import Failed
from tests import factories
from tests.tiny_models import make_tokenizer

FACTS = {
    "architecture": "LlamaForCausalLM",
    "model_type": "llama",
    "parameter_count": 134_515_008,
    "layers": 30,
    "hidden_size": 576,
    "heads": 9,
    "kv_heads": 3,
    "head_dim": 64,
    "intermediate_size": 1536,
    "context_length": 8192,
    "vocabulary_size": 49_152,
    "tied_head": True,
    "dtype": "bfloat16",
    "size_bytes": 269_060_552,
}
SUMMARY = {
    "steps": 50,
    "trained_tokens": 41_200,
    "supervised_tokens": 12_100,
    "final_loss": 0.0213,
    "dtype": "bfloat16",
}
VERIFICATION = {
    "max_difference": 3.1e-6,
    "tolerance": 1e-4,
    "noise": 0.0,
    "dtype": "float32",
    "changes_something": True,
    "warnings": [],
}
TOPICS = ["delivery", "refund", "login", "invoice", "warranty"]


@dataclass
class SampleHub:
    user: User
    team: Team
    running: Job
    succeeded: Job
    failed: Job
    preferring: Job
    paused: Job
    evaluation: Job
    adapter: AdapterVersion


def make_sample_hub() -> SampleHub:
    user = factories.make_user("alice", email="alice@example.org")
    team = factories.make_team(user, slug="support", role=Role.ADMIN)
    factories.make_team(user, slug="research", role=Role.VIEWER)
    with tempfile.TemporaryDirectory() as folder:
        make_tokenizer(Path(folder))
        model = factories.make_base_model(team, "smollm2-135m-instruct", folder=Path(folder), facts=FACTS)
    tickets = factories.make_dataset_version(team, "support-tickets", [ticket(number) for number in range(400)])
    held_out = factories.make_dataset_version(team, "support-tickets-held-out", [ticket(n) for n in range(900, 940)])
    make_from_huggingface(team, user, model)
    worker = factories.make_worker("gpu-1", devices=0)
    for index in range(2):
        device = worker.devices.create(
            index=index,
            kind="cuda",
            name="NVIDIA RTX 6000 Ada",
            memory_bytes=48 * 2**30,
            driver="570.86.15",
            temperature_celsius=71 - 30 * index,
        )
        record_readings(device, busy=0.9 if index == 0 else 0.0)
    worker.devices.filter(index=1).update(
        quarantined_at=timezone.now(),
        quarantine_reason="It reported Xid 79: it fell off the bus. Reset it (`nvidia-smi --gpu-reset`) or reboot the "
        "machine. If the error comes back, replace the GPU.",
    )
    idle = factories.make_worker("lab-desk")
    idle.drain_requested = True
    idle.save(update_fields=["drain_requested"])

    make_people(team, user)
    succeeded = make_trained(team, model, tickets, "support-tickets-smollm2", hours_ago=5)
    attempt = ended_attempt(succeeded, worker)
    record_steps(attempt, 50)
    told = {"summary": SUMMARY, "verification": VERIFICATION}
    version = factories.make_adapter_version(
        team,
        "support-tickets-smollm2",
        base_model=model,
        dataset_version=tickets,
        training_spec=succeeded.spec,
        model_card=write_card(
            succeeded.training_spec(), job_id=succeeded.pk, base_model=model, dataset_versions=[tickets], **told
        ),
        **told,
    )
    Publication.objects.create(job=succeeded, attempt=attempt, step=50, adapter_version=version)
    add_events(succeeded, [EventDraft("Published, reloaded and compared with what was trained.")], attempt=attempt)
    evaluation = make_evaluation(team, model, held_out, version)
    failed = make_trained(team, model, tickets, "refund-letters", hours_ago=3, state="failed", failure=True)
    ended_attempt(failed, worker, state="failed", failure_class="out_of_memory", failure_message="Out of memory.")
    preferring = make_trained(team, model, tickets, "kind-answers", hours_ago=4)
    preferring.spec["objective"] = {"type": "dpo"}
    preferring.save(update_fields=["spec"])
    record_steps(ended_attempt(preferring, worker), 50, is_dpo=True)
    paused = make_paused(team, model, tickets, worker)
    running = make_running(team, model, tickets, worker)
    factories.make_job(
        team,
        base_model=model,
        dataset_version=tickets,
        spec=spec_of(model, "tone-of-voice"),
        waiting_reason="Next in the queue: it needs a device with 9.6 GB, and all 2 suitable devices (NVIDIA L4) are "
        "busy. It is expected to start around 14:35 UTC.",
    )
    return SampleHub(user, team, running, succeeded, failed, preferring, paused, evaluation, version)


def make_from_huggingface(team: Team, user: User, model: BaseModel) -> None:
    """What came from Hugging Face: a base model without a chat template, a failed import, and the team's token."""
    commit = "7ae557604adf67be50417f59c2c2f167def9a775"
    plain = factories.make_base_model(team, "qwen2.5-0.5b", facts=FACTS | {"chat_template_sha256": None})
    plain.source, plain.commit, plain.access = "hf:Qwen/Qwen2.5-0.5B@main", commit, "open"
    plain.save(update_fields=["source", "commit", "access"])
    gated = import_base_model(team, user, name="llama-3.2-1b", source="hf:meta-llama/Llama-3.2-1B").over
    message = "meta-llama/Llama-3.2-1B is gated: Hugging Face gives it only to accounts that accepted its terms."
    remedy = (
        "Accept them at https://huggingface.co/meta-llama/Llama-3.2-1B, then have a team admin set the team's token."
    )
    with transaction.atomic():
        end_job(lock_job(gated.jobs.get().pk), JobState.FAILED, message, failed=Failed("bad_config", message, remedy))
    set_alias(team, user, alias="gpt-4o-mini-2024-07-18", base_model=model.name)
    set_huggingface_token(team, "hf_sample", actor=user)


def make_people(team: Team, admin: User) -> None:
    """Colleagues, tokens, and the record of both."""
    bob, _ = add_member(team, "bob", role=Role.MEMBER, actor=admin, email="bob@example.org")
    add_member(team, "vera", role=Role.VIEWER, actor=admin)
    change_role(bob, Role.ADMIN, actor=admin)
    create_token(admin, team, name="ci", scopes=["read", "write"])
    create_token(admin, team, name="laptop", lifetime=None)
    create_token(admin, team, name="workshop", scopes=["read"], lifetime=timedelta(days=-2))


def ticket(number: int) -> dict[str, Any]:
    topic = TOPICS[number % len(TOPICS)]
    answer = json.dumps({"topic": topic, "order": 4700 + number, "urgent": number % 3 == 0})
    return {
        "messages": [
            {"role": "system", "content": "Answer with one JSON object: topic, order, urgent."},
            {
                "role": "user",
                "content": f"Hello, my order {4700 + number} has a problem: {topic}. Can you help?",
            },
            {"role": "assistant", "content": answer},
        ]
    }


def spec_of(model: BaseModel, adapter_name: str) -> dict[str, Any]:
    spec = factories.make_spec(
        base_model=model.name, dataset={"name": "support-tickets", "version": 1}, adapter_name=adapter_name
    )
    return spec.model_dump(mode="json", exclude_none=True)


def make_trained(
    team: Team,
    model: BaseModel,
    tickets: Any,
    name: str,
    *,
    hours_ago: int,
    state: str = "succeeded",
    failure: bool = False,
) -> Job:
    start = timezone.now() - timedelta(hours=hours_ago)
    columns: dict[str, Any] = (
        {"result": training_result()}
        if not failure
        else {
            "failure_class": "out_of_memory",
            "failure_message": "The GPU ran out of memory in step 1: 47.2 GB of 48 GB were in use.",
            "failure_remedy": "Halve `training.micro_batch_size` and double `training.gradient_accumulation_steps`.",
        }
    )
    job = factories.make_job(
        team,
        base_model=model,
        dataset_version=tickets,
        spec=spec_of(model, name),
        state=state,
        created_at=start,
        started_at=start + timedelta(seconds=8),
        finished_at=start + timedelta(minutes=2),
        step=50 if not failure else 0,
        total_steps=50,
        **columns,
    )
    add_events(job, [EventDraft("Submitted."), EventDraft("Queued. The first 200 rows fit.")])
    if failure:
        add_events(job, [EventDraft("Failed: the GPU ran out of memory in step 1.", "error")])
    return job


def training_result() -> dict[str, Any]:
    return {
        "steps": 50,
        "final_loss": 0.0213,
        "trained_tokens": 31_412,
        "supervised_tokens": 9_614,
        "dtype": "float32",
    }


def make_running(team: Team, model: BaseModel, tickets: Any, worker: Any) -> Job:
    start = timezone.now() - timedelta(minutes=6)
    job = factories.make_job(
        team,
        base_model=model,
        dataset_version=tickets,
        spec=spec_of(model, "support-tickets-v2"),
        state="running",
        created_at=start,
        started_at=start,
        step=180,
        total_steps=300,
        eta_seconds=248.0,
    )
    attempt = factories.make_attempt(
        job,
        worker,
        state="running",
        lease_token=uuid4(),
        assigned_at=start,
        started_at=start,
        log_tail=sample_log(),
    )
    record_steps(attempt, 180)
    lines = ["Submitted.", "Queued. The first 200 rows have 24 supervised tokens each.", "Attempt 1 started on gpu-1."]
    lines += ["300 steps over 400 rows: 4,884,480 of 139,399,488 parameters are trained, in bfloat16 on cuda."]
    add_events(job, [EventDraft(line) for line in lines], actor=job.created_by)
    add_events(job, [EventDraft(f"Checkpoint at step {step}.") for step in (50, 100, 150)], attempt=attempt)
    return job


def make_paused(team: Team, model: BaseModel, tickets: Any, worker: Any) -> Job:
    start = timezone.now() - timedelta(hours=2)
    job = factories.make_job(
        team,
        base_model=model,
        dataset_version=tickets,
        spec=spec_of(model, "long-answers"),
        state="paused",
        desired_state="pause",
        created_at=start,
        started_at=start,
        step=90,
        total_steps=300,
    )
    attempt = ended_attempt(job, worker, state="paused", finished_at=start + timedelta(minutes=4))
    record_steps(attempt, 90)
    add_events(job, [EventDraft("Submitted."), EventDraft("Queued. The first 200 rows fit.")])
    said = "Pausing: the trainer writes a checkpoint and stops. Friday's demo needs the GPU."
    add_events(job, [EventDraft(said)], actor=job.created_by)
    add_events(job, [EventDraft("Checkpoint at step 90."), EventDraft("Stopped at step 90.")], attempt=attempt)
    add_events(job, [EventDraft("Paused. It will restart from the checkpoint of step 90.")])
    return job


def make_evaluation(team: Team, model: BaseModel, held_out: Any, version: AdapterVersion) -> Job:
    samples = []
    for number in (900, 901, 902):
        system, user, assistant = ticket(number)["messages"]
        samples.append(
            {
                "prompt": f"{system['content']}\n\n{user['content']}",
                "expected": assistant["content"],
                "base": "I'm sorry to hear that! Could you tell me more about the problem with your order?",
                "adapter": assistant["content"] if number != 902 else assistant["content"].replace("true", "false"),
            }
        )
    return factories.make_job(
        team,
        kind="evaluate",
        base_model=model,
        dataset_version=held_out,
        adapter_version=version,
        spec={"max_rows": None, "max_new_tokens": 256},
        state="succeeded",
        created_at=timezone.now() - timedelta(hours=4),
        finished_at=timezone.now() - timedelta(hours=4),
        step=40,
        total_steps=40,
        progress_unit="rows",
        result={"rows": 40, "base_exact_match": 0.0, "adapter_exact_match": 0.975, "samples": samples},
    )


def ended_attempt(job: Job, worker: Any, state: str = "succeeded", **columns: Any) -> Attempt:
    defaults = {"state": state, "lease_token": uuid4(), "assigned_at": job.started_at, "started_at": job.started_at}
    defaults |= {"finished_at": job.finished_at}
    attempt = factories.make_attempt(job, worker, log_tail=sample_log(), **(defaults | columns))
    attempt.devices.add(worker.devices.first(), through_defaults={"released_at": attempt.finished_at})
    return attempt


def record_readings(device: Device, *, busy: float) -> None:
    """The last hour, with a pause in its middle."""
    dice, now = random.Random(3), timezone.now()
    DeviceSample.objects.bulk_create(
        DeviceSample(
            device=device,
            at=now - timedelta(seconds=30 * number),
            utilisation=busy * (0.2 if 50 < number < 70 else 0.9 + 0.1 * dice.random()),
            memory_used_bytes=int(device.memory_bytes * (0.05 if 50 < number < 70 else 0.05 + busy * 0.6)),
        )
        for number in range(120)
    )


def record_steps(attempt: Attempt, steps: int, *, first: int = 1, is_dpo: bool = False) -> None:
    """A loss that falls as losses do, the same on every run; of DPO rewards that rise."""
    dice = random.Random(7)
    MetricPoint.objects.bulk_create(
        MetricPoint(
            attempt=attempt,
            step=step,
            epoch=step / 100,
            loss=2.6 * math.exp(-step / (steps / 6)) + 0.05 + dice.random() * 0.18 * math.exp(-step / (steps / 2)),
            learning_rate=2e-4 * (1 - step / (steps + 120)),
            grad_norm=0.8,
            tokens=640,
            supervised_tokens=96,
            seconds=2.07,
            peak_memory_bytes=6_442_450_944,
            measures={
                "reward_margin": 3.2 * (1 - math.exp(-step / 20)) + 0.3 * dice.random(),
                "reward_accuracy": min(8, 4 + step // 8) / 8,
            }
            if is_dpo
            else {},
        )
        for step in range(first, first + steps)
    )


def sample_log() -> str:
    return "\n".join(f"09:1{n // 6}:{n % 6}0 INFO engine step {n + 1} loss {2.6 / (n + 1):.4f}" for n in range(40))
