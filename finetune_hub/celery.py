"""The Celery app: it carries pokes, never facts (P2).

    celery -A finetune_hub.celery:app worker -P threads -Q control --beat-thread
    celery -A finetune_hub.celery:app worker -P threads -Q worker.NAME

Of several controls one drives the rounds, or a `celery beat` beside them. Two at once cost rounds, and do no harm.
"""

from __future__ import annotations

import logging.config
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from click import Option
from django.conf import settings

from finetune_hub.beat_thread import BeatThread

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")
# Django's checks load every page and form, 10 MB that no task needs. `migrate` makes them before a worker starts.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("finetune_hub")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["workers"], related_name="control")
app.autodiscover_tasks(["workers"], related_name="gpu")
app.user_options["worker"].add(Option(["--beat-thread"], is_flag=True, help="Drive the rounds from this worker."))
app.steps["worker"].add(BeatThread)


@setup_logging.connect
def keep_logging(**kwargs: Any) -> None:
    """Celery adds no handler and no format of its own: its lines are as everybody's."""
    logging.config.dictConfig(settings.LOGGING)
