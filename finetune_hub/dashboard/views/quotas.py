"""The quotas page: each team's quota and use. Members see their own teams; staff see and set all."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import Right, may, require_right
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.forms import QuotaForm
from finetune_hub.fleet.actions import set_quota
from finetune_hub.jobs.team_use import uses_shown_to


@login_required
@require_safe
def list_quotas(request: MemberRequest) -> HttpResponse:
    return render_quotas(request)


@login_required
@require_POST
def change(request: MemberRequest, slug: str) -> HttpResponse:
    require_right(Right.SET_QUOTA, request.user)
    team = get_object_or_404(Team, slug=slug)
    form = QuotaForm(request.POST, prefix=slug)
    if not form.is_valid():
        return render_quotas(request, refused=(slug, form), status=422)
    quota = set_quota(team, **form.cleaned_data, actor=request.user)
    messages.success(request, f"{team.name} may have {quota}.")
    return redirect("quotas")


def render_quotas(
    request: MemberRequest, *, refused: tuple[str, QuotaForm] | None = None, status: int = 200
) -> HttpResponse:
    """Render the page, with a refused form in place of its team's."""
    may_change = may(Right.SET_QUOTA, request.user)
    uses = uses_shown_to(request.user)
    lines: list[dict[str, Any]] = [{"use": use, "form": None} for use in uses]
    for line, use in zip(lines, uses, strict=True):
        if refused and refused[0] == use.team.slug:
            line["form"] = refused[1]
        elif may_change:
            line["form"] = QuotaForm.of(use)
    return render(request, "quotas/list.html", {"lines": lines}, status=status)
