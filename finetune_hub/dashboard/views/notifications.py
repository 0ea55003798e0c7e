"""Notification settings: a user's e-mails on the account page, a team's chat room on the team page."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import redirect
from django.views.decorators.http import require_POST

from finetune_hub.accounts.rights import Right
from finetune_hub.dashboard.access import MemberRequest, team_for
from finetune_hub.dashboard.notification_forms import ChatForm, EmailForm
from finetune_hub.dashboard.views.account import render_account
from finetune_hub.dashboard.views.team import render_team
from finetune_hub.notifications.actions import connect_chat, disconnect_chat, wish_for_email
from finetune_hub.notifications.models import Wants
from finetune_hub.spec.refusal import Refusal


@login_required
@require_POST
def wish(request: MemberRequest) -> HttpResponse:
    form = EmailForm(request.POST)
    if form.is_valid():
        try:
            wants, email = Wants(form.cleaned_data["wants"]), form.cleaned_data["email"]
            wish_for_email(request.user, wants, email=email, actor=request.user)
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            messages.success(request, "Kept.")
            return redirect("account")
    return render_account(request, email_form=form, status=422)


@login_required
@require_POST
def connect(request: MemberRequest, slug: str) -> HttpResponse:
    team = team_for(Right.CONNECT_CHAT, request.user, slug)
    form = ChatForm(request.POST)
    if form.is_valid():
        try:
            webhook = connect_chat(
                team, form.cleaned_data["url"], Wants(form.cleaned_data["wants"]), actor=request.user
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            messages.success(request, f"The chat room at {webhook.host} now gets messages about this team's jobs.")
            return redirect("team-of", slug)
    return render_team(request, team, chat_form=form, status=422)


@login_required
@require_POST
def disconnect(request: MemberRequest, slug: str) -> HttpResponse:
    team = team_for(Right.DISCONNECT_CHAT, request.user, slug)
    disconnect_chat(team, actor=request.user)
    messages.success(request, "The chat room gets no more messages, and its URL is deleted.")
    return redirect("team-of", slug)
