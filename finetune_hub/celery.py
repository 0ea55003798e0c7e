"""The Celery app. Its tasks are wake-ups that carry no data (P2).

    celery -A finetune_hub.celery:app worker -P threads -Q control --beat-thread
    celery -A finetune_hub.celery:app worker -P threads -Q worker.NAME

Run one beat: in one of the control workers or as `celery beat`. A second one is harmless but wastes rounds.
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
# Django's checks load all pages and forms (10 MB), which tasks do not need. `migrate` runs them before.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

app = Celery("finetune_hub")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["workers"], related_name="control")
app.autodiscover_tasks(["workers"], related_name="gpu")
app.user_options["worker"].add(Option(["--beat-thread"], is_flag=True, help="Run beat in this worker."))
app.steps["worker"].add(BeatThread)


@setup_logging.connect
def keep_logging(**kwargs: Any) -> None:
    """Use the hub's log configuration instead of Celery's own."""
    logging.config.dictConfig(settings.LOGGING)
