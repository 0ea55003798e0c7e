"""A translation in progress: our recipe so far, and a note for each key of the foreign file.

A table has a rule for each key: it reads the key's value, writes the equivalent into our recipe, and notes what
happened. Every key gets at least one note.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Outcome = Literal["taken", "changed", "not_supported", "unresolved", "refused"]

MAX_NAME_LENGTH = 64


@dataclass(frozen=True)
class Note:
    """What happened to one key.

    taken: it means the same here. changed: the hub expresses it differently. not_supported: it has no effect here.
    unresolved: it names something that the hub does not have yet. refused: without it the training would be different.
    """

    key: str
    outcome: Outcome
    sentence: str

    @property
    def outcome_in_words(self) -> str:
        return self.outcome.replace("_", " ")


class Draft:
    """The foreign document, our document, and the notes so far."""

    def __init__(self, source: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        """
        Args:
            source: The foreign document.
            defaults: The foreign program's defaults for missing keys; written out in ours.
        """
        self.defaulted = {key for key in defaults if source.get(key) is None}
        self.source = {**source, **{key: defaults[key] for key in self.defaulted}}
        self.document: dict[str, Any] = {}
        self.notes: list[Note] = []
        self._origins: dict[str, str] = {}

    def put(self, place: str, value: Any, *, key: str) -> None:
        """Write a value into our recipe, at a place such as `training.epochs`."""
        *parts, last = place.split(".")
        target = self.document
        for part in parts:
            target = target.setdefault(part, {})
        target[last] = value
        self._origins[place] = key

    def note(self, key: str, outcome: Outcome, sentence: str) -> None:
        if key in self.defaulted:
            sentence = f"Not in the file; the default there, {self.source[key]}, is used. {sentence}".rstrip()
        self.notes.append(Note(key, outcome, sentence))

    def refuse(self, key: str, sentence: str) -> None:
        self.note(key, "refused", sentence)

    def origin_of(self, place: str) -> str:
        """Return the foreign key that a place of our recipe was written from, or the place itself."""
        return self._origins.get(place, place)


Rule = Callable[[Draft, str, Any], None]


def take(place: str, read: Callable[[Any], Any] | None = None, sentence: str = "") -> Rule:
    """Return a rule that copies the value to a place in our recipe."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.put(place, read(value) if read else value, key=key)
        draft.note(key, "taken", sentence or f"Sets `{place}`.")

    return rule


def choose(place: str, exact: Mapping[str, str], nearest: Mapping[str, str], otherwise: str) -> Rule:
    """Return a rule that maps their word to ours: the exact one, the nearest one, or a fallback."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        word = word_of(value)
        ours = exact.get(word) or nearest.get(word, otherwise)
        draft.put(place, ours, key=key)
        if word in exact:
            draft.note(key, "taken", f"Sets `{place}: {ours}`.")
        else:
            draft.note(key, "changed", f"The hub has no `{word}`; the closest option is `{place}: {ours}`.")

    return rule


def replaced(sentence: str) -> Rule:
    """Return a rule for a key that is not needed; the sentence says what the hub does instead."""
    return lambda draft, key, value: draft.note(key, "changed", sentence)


def unsupported(sentence: str) -> Rule:
    """Return a rule for a key that has no effect here, unless it is off anyway."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.note(key, "taken", "It is off here too.")
        else:
            draft.note(key, "not_supported", sentence)

    return rule


def refused(sentence: str) -> Rule:
    """Return a rule that refuses the recipe, unless the key is off."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.note(key, "taken", "It is off here too.")
        else:
            draft.refuse(key, sentence)

    return rule


def read_elsewhere(sentence: str) -> Rule:
    """Return a rule for a key that another key's rule reads."""
    return lambda draft, key, value: draft.note(key, "taken", sentence)


def needless(keys: str, *, because: str) -> dict[str, Rule]:
    """Return the `replaced` rule for each of the space-separated keys."""
    return dict.fromkeys(keys.split(), replaced(because))


def missing(keys: str, *, because: str) -> dict[str, Rule]:
    """Return the `unsupported` rule for each of the space-separated keys."""
    return dict.fromkeys(keys.split(), unsupported(because))


def is_off(value: Any) -> bool:
    return value in (None, False, 0, "", "none", "None", "no") or value == [] or value == {}


def word_of(value: Any) -> str:
    """Return a scalar as text of at most 80 characters, and any other value as its type's name."""
    return str(value)[:80] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def number_of(value: Any) -> Any:
    """Parse a number such as `1e-4`, which is text in YAML 1.1. The spec later refuses anything else."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def flag_of(value: Any) -> bool:
    return word_of(value).lower() in {"true", "1", "yes"}


def names_of(value: Any) -> list[str]:
    """Return the names in a list or a comma-separated string."""
    parts = value if isinstance(value, list) else word_of(value).split(",")
    return [word_of(part).strip() for part in parts if word_of(part).strip()]


def slug_of(text: str) -> str:
    """Return a valid name made from any text: `Owner/My Data` becomes `owner-my-data`."""
    single = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    single = re.sub(r"([._-])[._-]+", r"\1", single)
    return single.strip("._-")[:MAX_NAME_LENGTH].strip("._-") or "dataset"
