"""The verbs of the fleet: drain a worker before it is mended, and let it work again."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import User, Verb
from finetune_hub.fleet.models import Worker


def drain_worker(worker: Worker, *, actor: User) -> None:
    """Keep new attempts away; those it has go on, assigned ones too. Twice is once.

    It waits for a scheduling pass that is under way (which locks the workers it uses), so none comes after it returned.
    """
    _request_drain(worker, True, Verb.WORKER_DRAINED, actor)


def resume_worker(worker: Worker, *, actor: User) -> None:
    """Let new attempts come again, at the next scheduling pass. Twice is once."""
    _request_drain(worker, False, Verb.WORKER_RESUMED, actor)


@transaction.atomic
def _request_drain(worker: Worker, drain: bool, verb: Verb, actor: User) -> None:
    if Worker.objects.filter(pk=worker.pk, drain_requested=not drain).update(drain_requested=drain):
        record(verb, worker.name, team=None, actor=actor)
