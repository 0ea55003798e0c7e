"""The workers page. Every user sees the machines; only admins drain, remove and release them."""

from __future__ import annotations

from datetime import timedelta
from importlib.metadata import version
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Prefetch
from django.db.models.functions import Now
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right, may
from finetune_hub.api.statuses import status_of
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.forms import InvitationForm
from finetune_hub.fleet.actions import drain_worker, release_device, remove_worker, resume_worker, share_device
from finetune_hub.fleet.invitations import WayIn
from finetune_hub.fleet.models import Device, DeviceSample, Worker, WorkerRole
from finetune_hub.jobs.models import Attempt
from finetune_hub.spec.refusal import Refusal

SHOWN_HISTORY = timedelta(hours=1)


@login_required
@require_safe
def list_workers(request: MemberRequest) -> HttpResponse:
    return render_workers(request)


def render_workers(
    request: MemberRequest,
    *,
    refusal: Refusal | None = None,
    way_in: WayIn | None = None,
    invitation_form: InvitationForm | None = None,
    status: int = 200,
) -> HttpResponse:
    """Render the machines with their jobs. Jobs of teams that the user is not in stay anonymous."""
    workers = (
        Worker.objects.in_fleet()
        .with_health()
        .prefetch_related(
            Prefetch("devices", Device.objects.filter(present=True)),
            Prefetch("devices__samples", DeviceSample.objects.filter(at__gt=Now() - SHOWN_HISTORY)),
            Prefetch(
                "attempts",
                Attempt.objects.active().select_related("job__base_model", "job__adapter_version__adapter"),
                to_attr="active_attempts",
            ),
        )
        .order_by("name")
    )
    context: dict[str, Any] = {
        "workers": workers,
        "team_ids": set(Team.objects.of(request.user).values_list("pk", flat=True)),
        "version": version("finetune_hub"),
        "refusal": refusal,
        "way_in": way_in,
    }
    if may(Right.INVITE_WORKER, request.user):
        context["invitation_form"] = invitation_form or InvitationForm()
        context["invitations"] = WorkerRole.objects.order_by("worker_name")
    return render(request, "workers/list.html", context, status=status_of(refusal) if refusal else status)


@login_required
@require_POST
def drain(request: MemberRequest, name: str) -> HttpResponse:
    drain_worker(find_worker(name), actor=request.user)
    return redirect("workers")


@login_required
@require_POST
def resume(request: MemberRequest, name: str) -> HttpResponse:
    resume_worker(find_worker(name), actor=request.user)
    return redirect("workers")


@login_required
@require_POST
def share(request: MemberRequest, name: str, kind: str, index: int) -> HttpResponse:
    """Allow or forbid small jobs to share the device, by `is_shared`."""
    share_device(find_device(name, kind, index), request.POST.get("is_shared") == "1", actor=request.user)
    return redirect("workers")


@login_required
@require_POST
def remove(request: MemberRequest, name: str) -> HttpResponse:
    try:
        remove_worker(find_worker(name), actor=request.user)
    except Refusal as refusal:
        return render_workers(request, refusal=refusal)
    messages.success(request, f"{name} is removed from the fleet. If it joins again, it is back in the fleet.")
    return redirect("workers")


@login_required
@require_POST
def release(request: MemberRequest, name: str, kind: str, index: int) -> HttpResponse:
    release_device(find_device(name, kind, index), actor=request.user)
    return redirect("workers")


def find_device(name: str, kind: str, index: int) -> Device:
    return get_object_or_404(find_worker(name).devices.select_related("worker"), kind=kind, index=index)


def find_worker(name: str) -> Worker:
    return get_object_or_404(Worker.objects.in_fleet(), name=name)
