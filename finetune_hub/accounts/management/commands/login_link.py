"""Print a one-time login link for the first owner, who is created if missing."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from finetune_hub.accounts.actions import ensure_owner, login_link


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--base-url", default=settings.PUBLIC_URL)
        parser.add_argument("--next", default="/", help="page to open after signing in")

    def handle(self, *args: Any, **options: Any) -> None:
        link = login_link(ensure_owner().user, next_page=options["next"], base_url=options["base_url"])
        self.stdout.write(link)
