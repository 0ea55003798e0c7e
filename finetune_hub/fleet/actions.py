"""The verbs of the fleet."""

from __future__ import annotations

from finetune_hub.fleet.models import Worker


def set_cordoned(worker: Worker, cordoned: bool) -> None:
    """Keep new attempts away from the worker, or let them come again. Running ones go on either way."""
    Worker.objects.filter(pk=worker.pk).update(cordoned=cordoned)
    worker.cordoned = cordoned
