"""Make a database role for a worker on another machine, and print the environment with which it joins."""

from __future__ import annotations

import re
import shlex
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import connection

from finetune_hub.fleet.worker_role import Invitation, invite_worker
from finetune_hub.spec.refusal import Refusal

ON_THIS_MACHINE = r"^(unix|file)://|@/|//(localhost|127\.0\.0\.1|\[::1\])[:/]"


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the worker's name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            invitation = invite_worker(options["name"])
        except Refusal as refusal:
            raise CommandError(f"{refusal.message} {refusal.remedy}") from refusal
        addresses = {
            "DATABASE_URL": database_url(invitation),
            "REDIS_URL": settings.REDIS_URL,
            "ARTIFACT_URL": settings.ARTIFACT_URL,
        }
        for variable, value in addresses.items():
            self.stdout.write(f"export {variable}={shlex.quote(value)}")
            if re.search(ON_THIS_MACHINE, value):
                self.stderr.write(f"{variable} can be reached on this machine alone: see docs/workers.md.")
        self.stdout.write(f"finetune-hub worker --name {invitation.worker_name}")


def database_url(invitation: Invitation) -> str:
    """The hub's database as the worker's role reaches it. The password is of letters that a URL takes as they are."""
    facts = connection.settings_dict
    who = f"{invitation.role_name}:{invitation.password}"
    if str(facts["HOST"]).startswith("/"):
        return f"postgresql://{who}@/{facts['NAME']}?host={facts['HOST']}"
    return f"postgresql://{who}@{facts['HOST'] or 'localhost'}:{facts['PORT'] or 5432}/{facts['NAME']}"
