"""The account page: password, and tokens for the API and the command line."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib import messages
from django.contrib.auth import update_session_auth_hash
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_POST, require_safe

from finetune_hub.accounts.actions import create_token, revoke_token, set_password
from finetune_hub.accounts.models import ApiToken
from finetune_hub.dashboard.access import MemberRequest, memberships_of
from finetune_hub.dashboard.account_forms import NewTokenForm, password_form
from finetune_hub.dashboard.notification_forms import EmailForm
from finetune_hub.notifications.models import EmailWish, Wants
from finetune_hub.spec.refusal import Refusal


@login_required
@require_safe
def show_account(request: MemberRequest) -> HttpResponse:
    return render_account(request)


@sensitive_post_parameters()
@login_required
@require_POST
def change_password(request: MemberRequest) -> HttpResponse:
    form = password_form(request.user, request.POST)
    if not form.is_valid():
        return render_account(request, password_form=form, status=422)
    set_password(request.user, form.cleaned_data["new_password1"], actor=request.user)
    update_session_auth_hash(request, request.user)  # Ends all other sessions of the user.
    messages.success(request, "Your password is set. Other browsers are signed out.")
    return redirect("account")


@never_cache
@login_required
@require_POST
def create(request: MemberRequest) -> HttpResponse:
    """Create a token. Renders the page instead of a redirect, as the secret is shown only once."""
    form = NewTokenForm(request.POST, memberships=memberships_of(request.user))
    if form.is_valid():
        try:
            token, secret = create_token(
                request.user,
                form.team,
                name=form.cleaned_data["name"],
                scopes=form.cleaned_data["scopes"],
                lifetime=form.lifetime,
            )
        except Refusal as refusal:
            form.add_refusal(refusal)
        else:
            return render_account(request, made=token, secret=secret, status=201)
    return render_account(request, token_form=form, status=422)


@login_required
@require_POST
def revoke(request: MemberRequest, token_id: str) -> HttpResponse:
    token = get_object_or_404(ApiToken.objects.of(request.user), pk=token_id)
    revoke_token(token, actor=request.user)
    messages.success(request, f"The token {token.name} is revoked and no longer works.")
    return redirect("account")


def render_account(request: MemberRequest, *, status: int = 200, **context: Any) -> HttpResponse:
    """Render the page with the given forms, or new ones."""
    context.setdefault("password_form", password_form(request.user))
    wish = EmailWish.objects.filter(user=request.user).first()
    asked = {"email": request.user.email, "wants": wish.wants if wish else Wants.NOTHING}
    context.setdefault("email_form", EmailForm(initial=asked))
    context["sends_email"] = settings.EMAIL_IS_SET_UP
    memberships = memberships_of(request.user)
    if memberships:
        context.setdefault("token_form", NewTokenForm(memberships=memberships))
    context |= {"tokens": ApiToken.objects.of(request.user), "public_url": settings.PUBLIC_URL}
    return render(request, "account/account.html", context, status=status)
