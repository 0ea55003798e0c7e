"""The process boundary is the import boundary (P1), and no model change lacks its migration."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from django.core.management import call_command

LOADED_AFTER = "import django, sys; django.setup(); import {modules}; print(*sys.modules)"


def test_web_control_and_worker_load_no_torch() -> None:
    modules = "finetune_hub.asgi, finetune_hub.urls, workers.control, workers.gpu, workers.fetch"
    program = LOADED_AFTER.format(modules=modules)
    loaded = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "finetune_hub.settings"},
    ).stdout.split()
    assert "workers.gpu" in loaded
    assert not {"torch", "transformers", "bitsandbytes"} & set(loaded)


@pytest.mark.django_db
def test_every_model_change_has_its_migration() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)
