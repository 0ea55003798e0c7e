"""Recipes: a TrainingSpec in YAML with line numbers, so that a refusal by the hub names file and line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from finetune_hub.cli.connection import HubError
from finetune_hub.spec.refusal import Refusal


@dataclass(frozen=True)
class Recipe:
    """A recipe's document, and its YAML nodes with line numbers."""

    path: Path
    document: dict[str, Any]
    root: yaml.MappingNode

    def line_of(self, place: Sequence[str | int]) -> int:
        """Return the line, starting at 1, of the deepest part of the place that is in the file."""
        node: yaml.Node = self.root
        line = int(node.start_mark.line)
        parts = list(place)
        if parts[:1] == ["datasets"] and "datasets" not in self.document:
            parts = ["dataset", *parts[2:]]  # The short form for a single dataset.
        for part in parts:
            found = _part_of(node, part)
            if found is None:
                break
            line, node = found
        return line + 1

    def place(self, refusal: Refusal, *, field: str | None = None) -> None:
        """Add file and line to a refusal of this recipe, before it is raised again.

        Args:
            field: The field of the recipe, if the refusal does not name it.
        """
        if field is not None:
            refusal.problem = replace(refusal.problem, field=field)
        if refusal.field is None or (isinstance(refusal, HubError) and refusal.is_outage):
            return
        refusal.details = details = [
            {"line": self.line_of(detail["loc"]), **detail} if "loc" in detail else detail for detail in refusal.details
        ]
        line = details[0]["line"] if details and "line" in details[0] else self.line_of(refusal.field.split("."))
        refusal.put_at(f"{self.path}, line {line}")


def read_recipe(path: Path) -> Recipe:
    """Read the recipe in the file.

    Raises:
        HubError: `file_unreadable`, or `invalid_recipe` with the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise HubError(
            "file_unreadable", f"{path} cannot be read: {reason}.", "Check the path of the recipe."
        ) from error
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        document = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise invalid(path, line, f"not YAML ({error.problem})", "Fix the line; indent with spaces.") from error
    except yaml.YAMLError as error:
        raise invalid(path, 1, f"not YAML ({str(error).splitlines()[0]})", "Save it as plain UTF-8 text.") from error
    if not isinstance(root, yaml.MappingNode) or not isinstance(document, dict):
        raise invalid(path, 1, "not a recipe", "Start with `base_model: NAME` and `dataset: {name: NAME}`.")
    return Recipe(path, document, root)


def invalid(path: Path, line: int, what: str, remedy: str) -> HubError:
    details = [{"line": line, "code": "invalid_recipe", "message": what, "remedy": remedy}]
    return HubError("invalid_recipe", f"{path}, line {line}: {what}.", remedy, details=details)


def _part_of(node: yaml.Node, part: str | int) -> tuple[int, yaml.Node] | None:
    """Return line (from 0) and node of a key or index."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if key.value == str(part):
                return int(key.start_mark.line), value
    if isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
        item = node.value[part]
        return int(item.start_mark.line), item
    return None
