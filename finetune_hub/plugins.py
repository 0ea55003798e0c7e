"""Packages that add methods, objectives, measures and kinds of job of their own, without a change of ours.

`FINETUNE_HUB_PLUGINS` names them, between commas. Of each, these modules are imported where they are there, by the
processes that need them; a module registers what it has by adding it to our registries.

    spec       `spec.methods.registry.METHODS`, `spec.objectives.registry.OBJECTIVES`, `spec.measures.MEASURES`
    engine     `engine.methods.ENGINE_METHODS`, `engine.objectives.registry.OBJECTIVES`
    jobs       `jobs.kinds.kind.KINDS`                      web and control processes, and workers
    workers    `workers.kinds.work.WORK`                    workers

A plugin is code that runs with all rights of the hub: whoever can set the environment of its processes chooses it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Literal

Room = Literal["spec", "engine", "jobs", "workers"]


def names() -> list[str]:
    """The packages, in the order in which they are named."""
    return [name.strip() for name in os.environ.get("FINETUNE_HUB_PLUGINS", "").split(",") if name.strip()]


def load(room: Room) -> None:
    """Import what the plugins have for these processes; again it does nothing.

    Raises:
        ModuleNotFoundError: `FINETUNE_HUB_PLUGINS` names a package that is not installed here.
    """
    for name in names():
        importlib.import_module(name)
        if importlib.util.find_spec(f"{name}.{room}") is not None:
            importlib.import_module(f"{name}.{room}")


def template_folders() -> list[Path]:
    """Folders `templates` of the plugins, for the pages of their kinds of job."""
    specs = [importlib.util.find_spec(name) for name in names()]
    places = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return [folder for place in places if (folder := Path(place) / "templates").is_dir()]
