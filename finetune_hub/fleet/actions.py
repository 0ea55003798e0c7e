"""The actions on the fleet: drain, resume and remove workers, share and release devices, set quotas."""

from __future__ import annotations

from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import Team, User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.fleet.models import Device, TeamQuota, Worker
from finetune_hub.fleet.pokes import poke_control
from finetune_hub.fleet.worker_role import revoke_role
from finetune_hub.spec.refusal import Refusal


def drain_worker(worker: Worker, *, actor: User) -> None:
    """Give the worker no new attempts; the ones it has continue, including assigned ones.

    It waits for a running scheduling pass (which locks the workers it uses), so none is assigned after it returns.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.DRAIN_WORKER, actor)
    _request_drain(worker, True, Verb.WORKER_DRAINED, actor)


def resume_worker(worker: Worker, *, actor: User) -> None:
    """Give the worker new attempts again, at once. Idempotent.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.RESUME_WORKER, actor)
    _request_drain(worker, False, Verb.WORKER_RESUMED, actor)


@transaction.atomic
def _request_drain(worker: Worker, drain: bool, verb: Verb, actor: User) -> None:
    if Worker.objects.filter(pk=worker.pk, drain_requested=not drain).update(drain_requested=drain):
        record(verb, worker.name, team=None, actor=actor)
        poke_control("schedule")


@transaction.atomic
def share_device(device: Device, is_shared: bool, *, actor: User) -> None:
    """Allow small jobs to share the device, or stop allowing it; running jobs continue.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.SHARE_DEVICE, actor)
    if Device.objects.filter(pk=device.pk, is_shared=not is_shared).update(is_shared=is_shared):
        verb = Verb.DEVICE_SHARED if is_shared else Verb.DEVICE_UNSHARED
        record(verb, str(device), team=None, actor=actor)
        poke_control("schedule")


@transaction.atomic
def set_quota(team: Team, *, max_devices: int | None, max_hours: float | None, weight: float, actor: User) -> TeamQuota:
    """Set the team's quota from now on; running jobs continue.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.SET_QUOTA, actor)
    Team.objects.select_for_update(no_key=True).get(pk=team.pk)
    before = TeamQuota.objects.filter(team=team).first() or TeamQuota(team=team)
    quota, _ = TeamQuota.objects.update_or_create(
        team=team, defaults={"max_devices": max_devices, "max_hours": max_hours, "weight": weight}
    )
    if str(before) != str(quota):
        record(Verb.QUOTA_CHANGED, str(quota), team=team, actor=actor)
        poke_control("schedule")
    return quota


def remove_worker(worker: Worker, *, actor: User) -> None:
    """Remove a worker that is gone from the fleet; its history stays, and it may join again.

    An invited worker loses its database role, and must be invited again.

    Raises:
        Refusal: `forbidden`; `worker_in_use`: it is alive, or has jobs.
    """
    require_right(Right.REMOVE_WORKER, actor)
    worker = Worker.objects.with_health().get(pk=worker.pk)
    if worker.removed_at:
        return
    if worker.has_attempts or worker.health()[0] != "offline":
        raise Refusal(
            "worker_in_use",
            f"{worker.name} is {worker.health()[0]}, so it cannot be removed.",
            "Drain it, wait until its jobs have ended, and stop its process first.",
            kind="conflict",
        )
    revoke_role(worker.name)
    with transaction.atomic():
        if Worker.objects.filter(pk=worker.pk, removed_at=None).update(removed_at=Now()):
            record(Verb.WORKER_REMOVED, worker.name, team=None, actor=actor)


@transaction.atomic
def release_device(device: Device, *, actor: User) -> None:
    """End the device's quarantine after a repair. If the fault is still there, it is quarantined again.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.RELEASE_DEVICE, actor)
    freed = Device.objects.filter(pk=device.pk).exclude(quarantined_at=None)
    if freed.update(quarantined_at=None, quarantine_reason=""):
        record(Verb.DEVICE_RELEASED, f"{device.kind} {device.index} of {device.worker.name}", team=None, actor=actor)
        poke_control("schedule")
