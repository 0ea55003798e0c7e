"""Worker invitations on the Workers page: invite and revoke. For the hub's staff only."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import redirect
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.forms import InvitationForm
from finetune_hub.dashboard.views.workers import render_workers
from finetune_hub.fleet.invitations import invite, revoke
from finetune_hub.spec.refusal import Refusal


@never_cache
@login_required
@require_POST
def invite_worker(request: MemberRequest) -> HttpResponse:
    """Invite a worker. Renders the page instead of a redirect, as the password is shown only once."""
    require_right(Right.INVITE_WORKER, request.user)
    form = InvitationForm(request.POST)
    if form.is_valid():
        try:
            way_in = invite(form.cleaned_data["name"], actor=request.user)
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            return render_workers(request, way_in=way_in, status=201)
    return render_workers(request, invitation_form=form, status=422)


@login_required
@require_POST
def revoke_worker(request: MemberRequest, name: str) -> HttpResponse:
    if not revoke(name, actor=request.user):
        raise Http404
    messages.success(request, f"{name} is revoked. Its jobs continue on other workers when their leases expire.")
    return redirect("workers")
