"""Create a database role for a worker on another machine, and print the environment that it needs to join."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from finetune_hub.fleet.invitations import invite
from finetune_hub.spec.refusal import Refusal


class Command(BaseCommand):
    help = __doc__ or ""

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("name", help="the worker's name")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            way_in = invite(options["name"], actor=None)
        except Refusal as refusal:
            raise CommandError(str(refusal)) from refusal
        self.stdout.write(way_in.script)
        for variable in way_in.only_here:
            self.stderr.write(f"{variable} can only be reached from this machine: see docs/workers.md.")
