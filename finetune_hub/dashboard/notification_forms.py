"""Notification forms: a user's e-mails and a team's chat room."""

from __future__ import annotations

from django import forms

from finetune_hub.dashboard.forms import PLAIN_TEXT, RefusableForm
from finetune_hub.notifications.models import Wants


class EmailForm(RefusableForm):
    email = forms.CharField(
        max_length=254,
        required=False,
        label="E-mail",
        widget=forms.EmailInput(attrs={"autocomplete": "email", "placeholder": "name@example.org"}),
    )
    wants = forms.ChoiceField(choices=Wants.choices, initial=Wants.NOTHING, label="Write to me about my jobs")


class ChatForm(RefusableForm):
    url = forms.CharField(
        max_length=2000,
        label="Webhook URL",
        help_text="From Slack, Mattermost, Rocket.Chat, or Discord (append `/slack`). It is never shown again.",
        widget=forms.URLInput(attrs={"autocomplete": "off", "placeholder": "https://…", **PLAIN_TEXT}),
    )
    wants = forms.ChoiceField(
        choices=[choice for choice in Wants.choices if choice[0] != Wants.NOTHING],
        initial=Wants.EVERYTHING,
        label="Send",
    )
