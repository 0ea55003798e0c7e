"""Drop the database role of a worker on another machine, and end its sessions."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_hub.fleet.invitations import revoke


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the worker's name")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["name"]
        if not revoke(name, actor=None):
            raise CommandError(f"The worker {name} has no database role: it was never invited, or was revoked.")
        self.stdout.write(f"{name} is revoked. Its jobs resume on another worker once their leases end.")
