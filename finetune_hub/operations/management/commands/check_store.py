"""Compare the artifact store with the database: list files without an owner and missing files. Exits with 1 if any."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import shared_store
from finetune_hub.operations.deletion.actions import purge_pass
from finetune_hub.operations.store_check import check_store
from finetune_hub.spec.sizes import size_in_words


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument(
            "--delete",
            action="store_true",
            help="delete files without an owner, and what can no longer be restored, up to 200 at a time",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        store = shared_store(settings.ARTIFACT_URL)
        try:
            if options["delete"]:
                purge_pass(store)
            report = check_store(store, delete=options["delete"])
        except ArtifactError as error:
            raise CommandError(str(error)) from error
        for key, size_bytes in report.orphans.items():
            self.stdout.write(f"no owner  {key}  {size_in_words(size_bytes)}")
        for each in report.missing:
            self.stdout.write(f"no file   {each.key}  of {each.owner}")
        deleted = f" Deleted without an owner: {report.deleted_count}." if report.deleted_count else ""
        self.stdout.write(f"{report.file_count} files, {size_in_words(report.size_bytes)}.{deleted}")
        if not report.is_sound:
            raise CommandError(f"Files without an owner: {len(report.orphans)}. Missing files: {len(report.missing)}.")
