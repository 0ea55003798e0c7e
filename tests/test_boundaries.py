"""The process boundary is the import boundary (P1), and Django objects to nothing."""

from __future__ import annotations

import os
import subprocess
import sys

from django.core.management import call_command

LOADED_AFTER = "import django, sys; django.setup(); import {modules}; print(*sys.modules)"


def test_web_control_and_worker_load_no_torch() -> None:
    modules = "finetune_hub.asgi, finetune_hub.urls, workers.control, workers.gpu, workers.fetch_pypi"
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


def test_django_objects_to_nothing() -> None:
    """As `migrate` asks before `finetune-hub up` goes on; each Django asks for more."""
    call_command("check", fail_level="WARNING")
