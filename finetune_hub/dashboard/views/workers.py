"""The page of workers. Everybody signed in sees the machines; only admins drain them."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied
from django.db.models import Prefetch
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.models import Team, User
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.fleet.actions import drain_worker
from finetune_hub.fleet.models import Device, Worker
from finetune_hub.jobs.models import Attempt
from finetune_hub.jobs.steering import resume_worker


@login_required
@require_safe
def list_workers(request: MemberRequest) -> HttpResponse:
    """The machines with what runs on them; a job of a team that the user is not in stays anonymous."""
    workers = (
        Worker.objects.with_health()
        .prefetch_related(
            Prefetch("devices", Device.objects.filter(present=True)),
            Prefetch(
                "attempts",
                Attempt.objects.active().select_related("job__base_model", "job__adapter_version__adapter"),
                to_attr="active_attempts",
            ),
        )
        .order_by("name")
    )
    team_ids = set(Team.objects.of(request.user).values_list("pk", flat=True))
    context = {"workers": workers, "team_ids": team_ids, "may_manage": request.user.may_manage_workers()}
    return render(request, "workers/list.html", context)


@login_required
@require_POST
def drain(request: MemberRequest, name: str) -> HttpResponse:
    drain_worker(managed_worker(request.user, name), actor=request.user)
    return redirect("workers")


@login_required
@require_POST
def resume(request: MemberRequest, name: str) -> HttpResponse:
    resume_worker(managed_worker(request.user, name), actor=request.user)
    return redirect("workers")


def managed_worker(user: User, name: str) -> Worker:
    """
    Raises:
        PermissionDenied: the user manages no workers.
    """
    if not user.may_manage_workers():
        raise PermissionDenied("Only an admin of a team manages the workers.")
    return get_object_or_404(Worker, name=name)
