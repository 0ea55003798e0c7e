"""The home page: running, waiting and recently failed jobs, and the newest adapters."""

from __future__ import annotations

from datetime import timedelta

from django.contrib.auth.decorators import login_required
from django.db.models.functions import Now
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.registry.models import Adapter

SHOWN = 5
FAILURES_OF = timedelta(days=7)


@login_required
@require_safe
def show_home(request: MemberRequest) -> HttpResponse:
    jobs = Job.objects.visible_to(request.user)
    waiting = jobs.filter(state__in=[JobState.VALIDATING, JobState.QUEUED])
    lately = jobs.filter(state=JobState.FAILED, finished_at__gt=Now() - FAILURES_OF)
    context = {
        "running": jobs.filter(state=JobState.RUNNING).for_list()[:SHOWN],
        "waiting": waiting.for_list().order_by("created_at", "id")[:SHOWN],
        "waiting_count": waiting.count(),
        "failed": lately.for_list().order_by("-finished_at", "-id")[:SHOWN],
        "adapters": Adapter.objects.visible_to(request.user).for_list()[:SHOWN],
        "is_new": not jobs.exists(),
    }
    return render(request, "home/home.html", context)
