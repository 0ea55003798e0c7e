"""What an installation says of itself: its version, written in pyproject.toml alone, and its licence."""

from __future__ import annotations

import tomllib
from importlib.metadata import distribution

import yaml
from django.conf import settings

from tests.gates.dead_links import ROOT, files_of_the_repository

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
INSTALLED = distribution("finetune_hub")


def test_the_version_is_written_in_one_place() -> None:
    product = [
        name for name in files_of_the_repository() if name.startswith(("finetune_hub/", "workers/", "templates/"))
    ]
    assert [name for name in product if f'"{PROJECT["version"]}"' in (ROOT / name).read_text()] == []


def test_what_is_installed_and_what_the_api_says_is_that_version() -> None:
    assert INSTALLED.version == PROJECT["version"]
    assert settings.SPECTACULAR_SETTINGS["VERSION"] == PROJECT["version"]
    assert yaml.safe_load((ROOT / "docs/openapi.yaml").read_text())["info"]["version"] == PROJECT["version"]


def test_the_licence_is_installed_too() -> None:
    assert INSTALLED.metadata["License-Expression"] == "Apache-2.0"
    assert INSTALLED.metadata.get_all("License-File") == ["LICENSE"]
    assert "Apache License" in (ROOT / "LICENSE").read_text()
