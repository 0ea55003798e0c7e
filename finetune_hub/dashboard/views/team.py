"""The team page: members, roles and the audit log. Admins add, change and remove members."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.actions import add_member, change_role, remove_member
from finetune_hub.accounts.huggingface_tokens import remove_huggingface_token, set_huggingface_token
from finetune_hub.accounts.models import AuditEvent, HuggingFaceToken, Role, Team
from finetune_hub.accounts.rights import Right, may
from finetune_hub.api.statuses import status_of
from finetune_hub.dashboard.access import MemberRequest, memberships_of, team_for
from finetune_hub.dashboard.account_forms import HuggingFaceTokenForm, NewMemberForm
from finetune_hub.dashboard.notification_forms import ChatForm
from finetune_hub.notifications.models import Channel, ChatWebhook, Notification
from finetune_hub.spec.refusal import Refusal

SHOWN_EVENTS = 50


@login_required
@require_safe
def show_team(request: MemberRequest, slug: str | None = None) -> HttpResponse:
    """Show the named team, by default the user's first."""
    teams = [membership.team for membership in memberships_of(request.user)]
    if slug is None and not teams:
        return render(request, "team/none.html")
    team = next((team for team in teams if slug in {None, team.slug}), None)
    if team is None:
        raise Http404
    return render_team(request, team)


@never_cache
@login_required
@require_POST
def add(request: MemberRequest, slug: str) -> HttpResponse:
    """Add a member. For a new user, renders the page instead of a redirect, as the login link is shown only once."""
    team = team_for(Right.ADD_MEMBER, request.user, slug)
    form = NewMemberForm(request.POST, teams=[team])
    if not form.is_valid():
        return render_team(request, team, form=form, status=422)
    given = form.cleaned_data
    try:
        member, link = add_member(
            team, given["username"], role=Role(given["role"]), actor=request.user, email=given["email"]
        )
    except Refusal as refusal:
        form.add_refusal(refusal)
        return render_team(request, team, form=form, status=status_of(refusal))
    if link:
        return render_team(request, team, invited=member.user, link=link, status=201)
    messages.success(request, f"{member.user} is now in the team, as {member.role}.")
    return redirect("team-of", slug)


@login_required
@require_POST
def change(request: MemberRequest, slug: str, membership_id: int) -> HttpResponse:
    team = team_for(Right.CHANGE_ROLE, request.user, slug)
    membership = get_object_or_404(team.memberships.select_related("team", "user"), pk=membership_id)
    role = request.POST.get("role", "")
    if role not in Role.values:
        raise Http404
    try:
        change_role(membership, Role(role), actor=request.user)
    except Refusal as refusal:
        return render_team(request, team, refusal=refusal, status=status_of(refusal))
    messages.success(request, f"{membership.user} is {role} now.")
    return redirect("team-of", slug)


@login_required
@require_POST
def remove(request: MemberRequest, slug: str, membership_id: int) -> HttpResponse:
    team = team_for(Right.REMOVE_MEMBER, request.user, slug)
    membership = get_object_or_404(team.memberships.select_related("team", "user"), pk=membership_id)
    try:
        remove_member(membership, actor=request.user)
    except Refusal as refusal:
        return render_team(request, team, refusal=refusal, status=status_of(refusal))
    messages.success(request, f"{membership.user} is no longer in the team, and their tokens for it are revoked.")
    return redirect("team") if membership.user == request.user else redirect("team-of", slug)


@sensitive_post_parameters()
@login_required
@require_POST
def change_huggingface_token(request: MemberRequest, slug: str) -> HttpResponse:
    """Set or replace the team's Hugging Face token."""
    team = team_for(Right.SET_HUGGINGFACE_TOKEN, request.user, slug)
    form = HuggingFaceTokenForm(request.POST, teams=[team])
    if form.is_valid():
        try:
            set_huggingface_token(team, form.cleaned_data["token"], actor=request.user)
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            messages.success(request, "The Hugging Face token is set. It is used to import gated and private models.")
            return redirect("team-of", slug)
    return render_team(request, team, token_form=form, status=422)


@login_required
@require_POST
def drop_huggingface_token(request: MemberRequest, slug: str) -> HttpResponse:
    remove_huggingface_token(team_for(Right.REMOVE_HUGGINGFACE_TOKEN, request.user, slug), actor=request.user)
    messages.success(request, "The Hugging Face token is removed.")
    return redirect("team-of", slug)


def render_team(request: MemberRequest, team: Team, *, status: int = 200, **context: Any) -> HttpResponse:
    """Render the page, with `form` if it was refused, and `invited` and `link` after a new user was added."""
    members = list(team.memberships.select_related("user").order_by("user__username"))
    context |= {
        "team": team,
        "members": members,
        "roles": Role.values,
        "events": AuditEvent.objects.seen_by(team)[:SHOWN_EVENTS],
    }
    if may(Right.ADD_MEMBER, request.user, team):
        context["webhook"] = ChatWebhook.objects.filter(team=team).first()
        context["chat_problem"] = newest_chat_problem(team)
        context.setdefault("chat_form", ChatForm())
        context.setdefault("form", NewMemberForm(teams=[team]))
        context.setdefault("token_form", HuggingFaceTokenForm(teams=[team]))
        context["huggingface_token"] = HuggingFaceToken.objects.filter(team=team).select_related("set_by").first()
    return render(request, "team/team.html", context, status=status)


def newest_chat_problem(team: Team) -> str:
    """Return why the newest message to the chat room failed; empty if it succeeded or there is none."""
    newest = Notification.objects.filter(team=team, channel=Channel.CHAT).order_by("-pk").first()
    return newest.problem if newest else ""
