"""Plugins: packages that add their own methods, objectives, measures and job kinds without changing our code.

`FINETUNE_HUB_PLUGINS` is a comma-separated list of them. Processes import the modules that they need, if they exist;
each module adds its parts to our registries.

    spec       `spec.methods.registry.METHODS`, `spec.objectives.registry.OBJECTIVES`, `spec.measures.MEASURES`
    engine     `engine.methods.ENGINE_METHODS`, `engine.objectives.registry.OBJECTIVES`
    jobs       `jobs.kinds.kind.KINDS`                      web and control processes, and workers
    workers    `workers.kinds.work.WORK`                    workers

A plugin's code runs with all rights of the hub. It is selected by whoever can set the environment of the processes.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from pathlib import Path
from typing import Literal

Room = Literal["spec", "engine", "jobs", "workers"]


def names() -> list[str]:
    """Return the packages in the given order."""
    return [name.strip() for name in os.environ.get("FINETUNE_HUB_PLUGINS", "").split(",") if name.strip()]


def load(room: Room) -> None:
    """Import the plugins' modules of this room. Repeating it has no effect.

    Raises:
        ModuleNotFoundError: `FINETUNE_HUB_PLUGINS` names a package that is not installed here.
    """
    for name in names():
        importlib.import_module(name)
        if importlib.util.find_spec(f"{name}.{room}") is not None:
            importlib.import_module(f"{name}.{room}")


def template_folders() -> list[Path]:
    """Return the plugins' `templates` folders, for the pages of their job kinds."""
    specs = [importlib.util.find_spec(name) for name in names()]
    places = [place for spec in specs if spec for place in spec.submodule_search_locations or ()]
    return [folder for place in places if (folder := Path(place) / "templates").is_dir()]
