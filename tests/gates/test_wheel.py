"""An installed hub, outside of the checkout, has its pages and its docs."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from tests.gates.dead_links import ROOT, files_of_the_repository

BUILD = "import sys; from setuptools.build_meta import build_wheel; build_wheel(sys.argv[1])"
SHOW = """
import django
django.setup()
from django.conf import settings
from django.contrib.auth.models import AnonymousUser
from django.contrib.staticfiles import finders
from django.test import RequestFactory
from django.urls import resolve

class Somebody(AnonymousUser):
    is_authenticated = True

def page(path):
    request = RequestFactory().get(path)
    request.user = Somebody()
    view, arguments, keywords = resolve(request.path)
    return view(request, *arguments, **keywords).content.decode()

assert "First steps" in page("/docs/")
assert "Pause and preempt" in page("/docs/?q=pause")
assert "/docs/adr/0006-priorities-above-zero-are-for-admins/" in page("/docs/jobs/")
assert "Decision" in page("/docs/adr/0003-the-scheduler-waits/")
assert finders.find("docs/images/job-dark.webp")
print(settings.BASE_DIR)
"""


def test_the_docs_are_shown_from_a_wheel(tmp_path: Path) -> None:
    copy, installed = tmp_path / "copy", tmp_path / "site-packages"
    for name in files_of_the_repository():
        if not name.startswith(("tests/", "benchmarks/")):
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    subprocess.run([sys.executable, "-c", BUILD, str(tmp_path)], cwd=copy, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        wheel.extractall(installed)
    shown = subprocess.run(
        [sys.executable, "-P", "-c", SHOW],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(installed), "DJANGO_SETTINGS_MODULE": "finetune_hub.settings"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (shown.stdout.strip(), shown.returncode) == (str(installed), 0), shown.stderr
