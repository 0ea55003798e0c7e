"""Upgrade the database to this release: show what is pending, refuse a newer database, and migrate."""

from __future__ import annotations

from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError

from finetune_hub.embedded.errors import DatabaseNewer
from finetune_hub.operations.upgrade import find_upgrade, note_release


class Command(BaseCommand):
    help = __doc__ or ""
    requires_system_checks = []

    def handle(self, *args: Any, **options: Any) -> None:
        upgrade = find_upgrade()
        self.stdout.write(upgrade.line())
        try:
            upgrade.refuse_newer()
        except DatabaseNewer as error:
            raise CommandError(str(error)) from error
        call_command("migrate", interactive=False)
        note_release()
