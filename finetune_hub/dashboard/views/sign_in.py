"""Sign in by password or by a one-time link, and sign out."""

from __future__ import annotations

from django.conf import settings
from django.contrib.auth import login
from django.contrib.auth.views import LoginView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render, resolve_url
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods

from finetune_hub.accounts.actions import login_link_tokens
from finetune_hub.accounts.models import User
from finetune_hub.api.statuses import status_of
from finetune_hub.dashboard.account_forms import SignInForm
from finetune_hub.dashboard.views.refusals import render_refusal, with_headers_of
from finetune_hub.spec.refusal import Refusal


class SignIn(LoginView):
    """The page with the name and the password."""

    template_name = "accounts/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True

    def form_invalid(self, form: SignInForm) -> HttpResponse:  # type: ignore[override]
        response = super().form_invalid(form)
        if form.refusal is None:
            return response
        response.status_code = status_of(form.refusal)
        return with_headers_of(response, form.refusal)


sign_in = SignIn.as_view()


@never_cache
@require_http_methods(["GET", "POST"])
def sign_in_by_link(request: HttpRequest, user_id: int, token: str) -> HttpResponse:
    """Show a button that signs in when pressed.

    A GET must not sign in: mail scanners and link previews open links and would use up the one-time link. The POST
    also carries the CSRF token, so that nobody can sign another person in to a foreign account.
    """
    user = User.objects.filter(pk=user_id, is_active=True).first()
    if user is None or not login_link_tokens.check_token(user, token):
        return render_refusal(
            request,
            Refusal(
                "invalid_token",
                "This link has been used or has expired.",
                "Ask an admin of your team for a new one. Each start of `finetune-hub up` also prints one.",
                kind="gone",
            ),
        )
    next_url = safe_next(request)
    if request.method == "POST":
        login(request, user, backend="django.contrib.auth.backends.ModelBackend")
        return redirect(next_url)
    return render(request, "accounts/sign_in_by_link.html", {"link_user": user, "next": next_url})


def safe_next(request: HttpRequest) -> str:
    """Return the page to continue to: the requested one if it is on this hub, otherwise home."""
    asked = request.POST.get("next") or request.GET.get("next") or ""
    if url_has_allowed_host_and_scheme(asked, {request.get_host()}, require_https=request.is_secure()):
        return asked
    return resolve_url(settings.LOGIN_REDIRECT_URL)
