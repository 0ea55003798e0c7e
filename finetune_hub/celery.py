"""The Celery app: it carries pokes, never facts (P2). Start it with `celery -A finetune_hub.celery:app worker`."""

from __future__ import annotations

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "finetune_hub.settings")

app = Celery("finetune_hub")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["workers"], related_name="control")
app.autodiscover_tasks(["workers"], related_name="gpu")
