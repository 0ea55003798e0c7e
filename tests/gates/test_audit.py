"""The audit says what it could not ask: where nothing answers, pip-audit itself says that nothing was found."""

from __future__ import annotations

from typing import Any

import pytest

from tests.gates.audit import FOUND, NOT_ASKED, Advisories, installed

SAFE = {"name": "idna", "version": "3.20", "vulns": []}
UNSAFE = {
    "name": "jinja2",
    "version": "2.4.1",
    "vulns": [{"id": "PYSEC-2019-217", "fix_versions": ["2.10.1"], "aliases": ["CVE-2019-10906"], "description": "…"}],
}
SKIPPED = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.13.0)"}


@pytest.mark.parametrize(
    ("packages", "code", "words"),
    [
        ([SAFE], 0, "1 packages, none known"),
        ([SAFE, UNSAFE], FOUND, "jinja2 2.4.1: PYSEC-2019-217, fixed in 2.10.1"),
        ([SAFE, SKIPPED], NOT_ASKED, "NOT CHECKED: the advisories on 1 packages could not be reached: torch"),
        ([UNSAFE, SKIPPED], FOUND, "NOT CHECKED"),
    ],
)
def test_the_verdict_tells_safe_from_not_asked(packages: list[dict[str, Any]], code: int, words: str) -> None:
    verdict, said = Advisories.read({"dependencies": packages, "fixes": []}).verdict()
    assert (verdict, words in said) == (code, True), said


@pytest.mark.needs_torch
def test_everything_installed_is_asked_about_by_its_published_version() -> None:
    packages = dict(line.split("==") for line in installed())
    assert {"Django", "pytest", "torch"} <= set(packages)
    assert "finetune_hub" not in packages
    assert not any("+" in version for version in packages.values())
