"""The pages that confirm a deletion, and the team's trash."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from finetune_hub.accounts.models import Team
from finetune_hub.accounts.rights import require_right
from finetune_hub.api.statuses import status_of
from finetune_hub.catalog.models import Deletion
from finetune_hub.dashboard.access import MemberRequest
from finetune_hub.dashboard.paging import page_of
from finetune_hub.operations.deletion.actions import (
    DELETABLE,
    delete_thing,
    grace_in_words,
    look_ahead,
    restore_deletion,
    team_of_target,
)
from finetune_hub.operations.deletion.deletable import Target
from finetune_hub.spec.refusal import Refusal

# The list and the page of each kind.
LISTS = {"adapter": "adapters", "dataset": "datasets", "base_model": "base-models", "job": "jobs"}
PAGES = {"adapter": "adapter", "dataset": "dataset", "job": "job"}


@login_required
@require_http_methods(["GET", "HEAD", "POST"])
def confirm(request: MemberRequest, kind: str, number: int | None = None, **ids: str) -> HttpResponse:
    """Show what deleting the target would do, and delete it on POST. Only what the page has shown may stop working."""
    (pk,) = ids.values()
    target = Target(kind, pk, number)
    team = team_of_target(target)
    if team is None or not Team.objects.of(request.user).filter(pk=team.pk).exists():
        raise Http404
    require_right(DELETABLE[kind].right, request.user, team)
    outlook = look_ahead(target)
    context = {"outlook": outlook, "back": page_about(target)}
    if request.method != "POST":
        return render(request, "deletions/confirm.html", context)
    shown = set(request.POST.getlist("accepted"))
    accepts = all(f"{each.kind} {each.id} {each.name}" in shown for each in outlook.stops_working)
    try:
        deletion = delete_thing(target, request.user, accept_dependents=accepts)
    except Refusal as refusal:
        context |= {"refusal": refusal, "outlook": look_ahead(target)}
        return render(request, "deletions/confirm.html", context, status=status_of(refusal))
    messages.success(request, said_of(deletion))
    return redirect(LISTS[kind])


@login_required
@require_safe
def show_trash(request: MemberRequest, slug: str) -> HttpResponse:
    """Show what was deleted in the team and can be restored, newest first."""
    team = get_object_or_404(Team.objects.of(request.user), slug=slug)
    page = page_of(request, Deletion.objects.of_team(team).restorable())
    return render(request, "team/trash.html", {"team": team, "page": page, "grace": grace_in_words()})


@login_required
@require_POST
def restore(request: MemberRequest, deletion_id: str) -> HttpResponse:
    """Restore everything that was deleted together."""
    visible = Deletion.objects.visible_to(request.user).select_related("team")
    deletion = restore_deletion(get_object_or_404(visible, pk=deletion_id), request.user)
    messages.success(request, f"Restored {deletion.subject}.")
    return redirect(LISTS[deletion.kind])


def page_about(target: Target) -> str:
    """Return the URL of the page that shows the target; base models only have a list."""
    if target.kind not in PAGES:
        return reverse(LISTS[target.kind])
    if target.number is None:
        return reverse(PAGES[target.kind], args=[target.pk])
    return reverse(f"{PAGES[target.kind]}-version", args=[target.pk, target.number])


def said_of(deletion: Deletion) -> str:
    """Return the message after a deletion."""
    return (
        f"Deleted {deletion.subject}. It can be restored for {grace_in_words()} from the trash of {deletion.team.name}."
    )
