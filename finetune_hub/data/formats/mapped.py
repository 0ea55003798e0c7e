"""Columns of no known format, mapped to parts by the user."""

from __future__ import annotations

from collections.abc import Mapping

from finetune_hub.data.formats.format import Document, quoted
from finetune_hub.data.formats.instruction import turns_row
from finetune_hub.data.formats.preference import Labelled, Preference
from finetune_hub.data.formats.raw_text import completion_row, text_row
from finetune_hub.data.rows import Row
from finetune_hub.spec.refusal import Refusal

PARTS = {
    "user": "the question",
    "assistant": "the answer, which is supervised",
    "system": "text before the conversation",
    "prompt": "raw text that is not supervised",
    "completion": "raw text that is supervised",
    "text": "raw text, all supervised",
    "chosen": "the better answer",
    "rejected": "the worse answer",
    "label": "whether the answer is good: true or false",
}
# Required parts; `system` may be added to the first three.
_SHAPES = [
    {"user", "assistant", "label"},
    {"user", "chosen", "rejected"},
    {"user", "assistant"},
    {"prompt", "completion"},
    {"text"},
]


class Mapped:
    """Rows with columns mapped to parts."""

    name = "mapped"
    title = "Mapped columns"

    def __init__(self, mapping: Mapping[str, str]) -> None:
        """
        Raises:
            Refusal: `invalid_mapping`.
        """
        unknown = sorted(set(mapping.values()) - PARTS.keys())
        if unknown:
            raise _refused(f"There is no part named {unknown[0]!r}.")
        self._columns = {part: column for column, part in mapping.items()}
        if len(self._columns) < len(mapping):
            raise _refused("Two columns are mapped to the same part.")
        self._parts = set(self._columns)
        has_turns = "user" in self._parts
        if (self._parts - {"system"} if has_turns else self._parts) not in _SHAPES:
            raise _refused(
                f"The parts {quoted(*sorted(self._parts)) if mapping else 'given'} do not make a complete row."
            )

    def looks(self, row: Document) -> str | None:
        return ", ".join(f"`{column}` is {part}" for part, column in self._columns.items())

    def convert(self, row: Document) -> Row:
        columns = self._columns
        if "text" in columns:
            return text_row(row, columns["text"])
        if "prompt" in columns:
            return completion_row(row, columns["prompt"], columns["completion"])
        if "chosen" in columns or "label" in columns:
            spelled = {"user": "prompt", "assistant": "completion"}
            named = {spelled.get(part, part): row.get(column) for part, column in columns.items()}
            return Preference().convert(named) if "chosen" in columns else Labelled().convert(named)
        return turns_row(row, columns["user"], columns["assistant"], columns.get("system"))


def _refused(message: str) -> Refusal:
    shapes = "; ".join(" + ".join(sorted(shape)) for shape in _SHAPES)
    return Refusal("invalid_mapping", message, f"Map columns to one of: {shapes}.", field="mapping")
