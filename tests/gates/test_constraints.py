"""constraints.txt pins what development and CI install. `make constraints` writes it."""

from __future__ import annotations

import re
import tomllib
from collections import defaultdict

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.gates.dead_links import ROOT

# Which build of torch is installed, and which packages of NVIDIA's with it, depends on the machine.
LEFT_OUT = re.compile(r"torch|triton|cuda-.*|nvidia-.*")


def test_each_dependency_is_pinned_within_its_range() -> None:
    pins = defaultdict(list)
    for pin in _pins():
        pins[canonicalize_name(pin.name)].append(str(pin.specifier).removeprefix("=="))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    for text in (
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ):
        wanted = Requirement(text)
        name = canonicalize_name(wanted.name)
        if name != canonicalize_name(project["name"]) and not LEFT_OUT.fullmatch(name):
            assert pins[name], f"{name} is not pinned. Run `make constraints`."
            assert all(wanted.specifier.contains(version) for version in pins[name]), (text, pins[name])


def test_it_names_neither_torch_nor_an_index() -> None:
    assert [pin.name for pin in _pins() if LEFT_OUT.fullmatch(pin.name)] == []
    assert "://" not in (ROOT / "constraints.txt").read_text()


def _pins() -> list[Requirement]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return [Requirement(line) for line in lines if line and not line.startswith("#")]
