"""One name, one thing: no two modules and no two public classes of the product are called the same.

Pages, API and command line show the same things, so their modules are called by what they show; and Django calls
some modules the same in every app. What else shares a name is listed here with its reason.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.gates.dead_links import ROOT, files_of_the_repository

FACES = ("finetune_hub/api/", "finetune_hub/cli/", "finetune_hub/dashboard/")
# What a method, an objective and a kind of job do is called as the module that says what they are.
AT_WORK = ("finetune_hub/engine/adapters/", "finetune_hub/engine/objectives/", "workers/kinds/")
# The API's views are called by their address, such as `Quotas`; a management command is always `Command`.
VIEWS = ("finetune_hub/api/views/", "/management/commands/")
# Made from the API's schema, whose answers are called as what they are about.
MADE = "finetune_hub/cli/answers.py"
EVERY_APP = {"actions", "admin", "apps", "models", "querysets", "urls"}

SHARED_MODULES = {
    "errors": "What a room raises, in each room that another process or program reads.",
    "registry": "The list in which a new method, objective or kind of job gets its line.",
    "training": "A training: its spec, and the kind of job that it is.",
}
SHARED_CLASSES = {
    "Adapter": "An adapter: as a row, and as the engine trains it, which knows no Django.",
    "Device": "A device: as a row, and as placement sees it, which knows no Django.",
    "Objective": "An objective: what the spec says about it, and at work in the engine.",
    "Training": "A training: the kind of job, and at work in the engine.",
}


def test_modules_have_names_of_their_own() -> None:
    places = defaultdict(list)
    for path in _product():
        if path.stem not in EVERY_APP | {"__init__"} and not str(path).startswith(FACES + AT_WORK):
            places[path.stem].append(path)
    assert {name for name, paths in places.items() if len(paths) > 1} == set(SHARED_MODULES)


def test_public_classes_have_names_of_their_own() -> None:
    places = defaultdict(list)
    for path in _product():
        if not any(part in str(path) for part in (*VIEWS, MADE)):
            for node in ast.parse((ROOT / path).read_text()).body:
                if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                    places[node.name].append(path)
    assert {name for name, paths in places.items() if len(paths) > 1} == set(SHARED_CLASSES)


def _product() -> Iterator[Path]:
    for path in files_of_the_repository():
        if path.startswith(("finetune_hub/", "workers/")) and path.endswith(".py") and "/migrations/" not in path:
            yield Path(path)
