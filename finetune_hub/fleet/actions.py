"""The verbs of the fleet: drain, resume and remove workers, share and release devices, say what a team may have."""

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
    """Keep new attempts away; those it has go on, assigned ones too.

    It waits for a scheduling pass that is under way (which locks the workers it uses), so none comes after it returned.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.DRAIN_WORKER, actor)
    _request_drain(worker, True, Verb.WORKER_DRAINED, actor)


def resume_worker(worker: Worker, *, actor: User) -> None:
    """Let new attempts come again, at once. To resume it twice changes nothing.

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
    """Let small jobs be on the device together, or no longer: those that are go on.

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
    """Say what the team may have from now on; what runs goes on.

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


@transaction.atomic
def remove_worker(worker: Worker, *, actor: User) -> None:
    """Take a worker that is gone out of the fleet; what it did stays, and when it joins again it is back.

    One that was invited loses its database role, and has to be invited again.

    Raises:
        Refusal: `forbidden`; `worker_in_use`: it is alive, or jobs are on it.
    """
    require_right(Right.REMOVE_WORKER, actor)
    worker = Worker.objects.with_health().select_for_update(no_key=True).get(pk=worker.pk)
    if worker.removed_at:
        return
    if worker.has_attempts or worker.health()[0] != "offline":
        raise Refusal(
            "worker_in_use",
            f"{worker.name} is {worker.health()[0]}: it is still there.",
            "Drain it, wait until nothing runs, and stop its process first.",
            kind="conflict",
        )
    revoke_role(worker.name)
    Worker.objects.filter(pk=worker.pk).update(removed_at=Now())
    record(Verb.WORKER_REMOVED, worker.name, team=None, actor=actor)


@transaction.atomic
def release_device(device: Device, *, actor: User) -> None:
    """End the device's quarantine: it was repaired. A fault that it still has puts it back.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.RELEASE_DEVICE, actor)
    freed = Device.objects.filter(pk=device.pk).exclude(quarantined_at=None)
    if freed.update(quarantined_at=None, quarantine_reason=""):
        record(Verb.DEVICE_RELEASED, f"{device.kind} {device.index} of {device.worker.name}", team=None, actor=actor)
        poke_control("schedule")
