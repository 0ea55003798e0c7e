"""Print a one-time login link for the first owner, who is made when missing."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.urls import reverse

from finetune_hub.accounts.actions import ensure_owner, login_link_tokens


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--base-url", default=settings.PUBLIC_URL)
        parser.add_argument("--next", default="/", help="the page to open after signing in")

    def handle(self, *args: Any, **options: Any) -> None:
        user = ensure_owner().user
        query = urlencode({"next": options["next"]})
        path = reverse("login-link", args=[user.pk, login_link_tokens.make_token(user)])
        self.stdout.write(f"{options['base_url'].rstrip('/')}{path}?{query}")
