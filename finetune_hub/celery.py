"""The Celery app: it carries pokes, never facts (P2). Start it with `celery -A finetune_hub.celery:app worker`."""

from __future__ import annotations

import logging.config
import os
from typing import Any

from celery import Celery
from celery.signals import setup_logging
from django.conf import settings

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")

app = Celery("finetune_hub")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["workers"], related_name="control")
app.autodiscover_tasks(["workers"], related_name="gpu")


@setup_logging.connect
def keep_logging(**kwargs: Any) -> None:
    """Celery adds no handler and no format of its own: its lines are as everybody's."""
    logging.config.dictConfig(settings.LOGGING)
