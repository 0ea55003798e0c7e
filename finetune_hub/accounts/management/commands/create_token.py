"""Print the secret of a new API token for the first owner, who is created if missing."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_hub.accounts.actions import create_token, ensure_owner
from finetune_hub.accounts.models import Scope
from finetune_hub.spec.refusal import Refusal


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--name", default="command line", help="name of the token")
        parser.add_argument("--days", type=int, default=90, help="days until it expires")
        every = ",".join(Scope.values)
        parser.add_argument("--scopes", default=every, help=f"comma-separated scopes: {every}")

    def handle(self, *args: Any, **options: Any) -> None:
        owner = ensure_owner()
        try:
            _, secret = create_token(
                owner.user,
                owner.team,
                name=options["name"],
                scopes=options["scopes"].split(","),
                lifetime=timedelta(days=options["days"]),
            )
        except Refusal as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(secret)
