"""Account forms: add a member, create a token, set a password."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, SetPasswordForm
from django.core.exceptions import ValidationError

from finetune_hub.accounts.actions import MAX_USERNAME_LENGTH
from finetune_hub.accounts.huggingface_tokens import MAX_LENGTH
from finetune_hub.accounts.models import Membership, Role, Scope, User
from finetune_hub.accounts.sign_in_attempts import Attempts
from finetune_hub.dashboard.forms import PLAIN_TEXT, TeamForm
from finetune_hub.spec.refusal import Refusal

NEVER = "never"
LIFETIMES = {"7": "7 days", "30": "30 days", "90": "90 days", "365": "a year", NEVER: "until it is revoked"}


class SignInForm(AuthenticationForm):
    """A name and a password; only so many wrong ones are looked at."""

    refusal: Refusal | None = None
    """Why the password was not looked at; None: it was."""

    def clean(self) -> dict[str, Any]:
        username, password = self.cleaned_data.get("username"), self.cleaned_data.get("password")
        if not username or not password:  # The form says so itself.
            return self.cleaned_data
        assert self.request is not None
        attempts = Attempts(username, self.request.META.get("REMOTE_ADDR") or "unknown")
        try:
            attempts.begin()
            cleaned: dict[str, Any] = super().clean()
        except ValidationError:
            attempts.log_refusal("wrong name or password")
            raise
        except Refusal as refusal:
            attempts.log_refusal(refusal.code)
            if refusal.kind == "unavailable":
                attempts.take_back()
            self.refusal = refusal
            raise ValidationError(str(refusal)) from refusal
        attempts.forget()
        return cleaned


class NewMemberForm(TeamForm):
    username = forms.CharField(
        max_length=MAX_USERNAME_LENGTH,
        help_text="A new user gets a one-time sign-in link.",
        widget=forms.TextInput(attrs={"autocomplete": "off", **PLAIN_TEXT}),
    )
    email = forms.CharField(
        max_length=254,
        required=False,
        label="E-mail",
        widget=forms.EmailInput(attrs={"autocomplete": "off", "placeholder": "name@example.org"}),
    )
    role = forms.ChoiceField(choices=Role.choices, initial=Role.MEMBER)


class HuggingFaceTokenForm(TeamForm):
    token = forms.CharField(
        max_length=MAX_LENGTH,
        help_text="A token with the role `read`. It is stored encrypted and never shown again.",
        widget=forms.PasswordInput(attrs={"autocomplete": "off", "placeholder": "hf_…", **PLAIN_TEXT}),
    )


class NewTokenForm(TeamForm):
    name = forms.CharField(
        max_length=100,
        help_text="What it is for.",
        widget=forms.TextInput(attrs={"placeholder": "ci", "autocomplete": "off", **PLAIN_TEXT}),
    )
    scopes = forms.MultipleChoiceField(widget=forms.CheckboxSelectMultiple)
    days = forms.ChoiceField(choices=list(LIFETIMES.items()), initial="90", label="Valid for")

    def __init__(self, *args: Any, memberships: Sequence[Membership], **kwargs: Any) -> None:
        super().__init__(*args, teams=[membership.team for membership in memberships], **kwargs)
        grantable = {scope for membership in memberships for scope in membership.grantable_scopes()}
        if "team" in self.fields:
            self.fields["team"].help_text = "The token can only access this team."
        scopes = self.fields["scopes"]
        assert isinstance(scopes, forms.MultipleChoiceField)
        scopes.choices = [choice for choice in Scope.choices if choice[0] in grantable]
        scopes.initial = [scope for scope in (Scope.READ, Scope.WRITE) if scope in grantable]

    @property
    def lifetime(self) -> timedelta | None:
        days = self.cleaned_data["days"]
        return None if days == NEVER else timedelta(days=int(days))


def password_form(user: User, data: Any = None) -> SetPasswordForm[User]:
    """Return the form to set a first password, or to change it, which requires the current one."""
    form = (PasswordChangeForm if user.has_usable_password() else SetPasswordForm)(user, data)
    form.fields["new_password1"].help_text = "At least eight characters; common passwords are refused."
    form.fields["new_password2"].label = "New password again"
    form.fields["new_password2"].help_text = ""
    for field in form.fields.values():
        field.widget.attrs.pop("autofocus", None)  # The page has several forms.
    return form
