"""The health page: what is wrong with the hub. Names machines, but no team's jobs."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.operations.health import look_as, worst_of


@login_required
@require_safe
def show_health(request: MemberRequest) -> HttpResponse:
    findings = look_as(request.user)
    return render(request, "workers/health.html", {"findings": findings, "level": worst_of(findings)})
