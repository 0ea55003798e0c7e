"""A translation under way: our recipe as it grows, and a note for each key of the foreign file.

A rule is what a table says about one key: it reads the key's value, puts what it means into our recipe, and notes what
became of it. Every key is noted exactly once or more, never not at all.
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
    """What became of one key.

    taken: it means the same here. changed: here it is said otherwise, and how. not_supported: it has no effect here.
    unresolved: the file names what the hub does not hold yet. refused: without it this would be another training.
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
            source: the foreign document.
            defaults: what the foreign program takes for keys that the document leaves out; written out in ours.
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
            sentence = f"Not in the file; the default there, {self.source[key]}, is written out. {sentence}".rstrip()
        self.notes.append(Note(key, outcome, sentence))

    def refuse(self, key: str, sentence: str) -> None:
        self.note(key, "refused", sentence)

    def origin_of(self, place: str) -> str:
        """The foreign key that a place of our recipe was written from; the place itself where there is none."""
        return self._origins.get(place, place)


Rule = Callable[[Draft, str, Any], None]


def take(place: str, read: Callable[[Any], Any] | None = None, sentence: str = "") -> Rule:
    """The value means the same at a place of ours."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        draft.put(place, read(value) if read else value, key=key)
        draft.note(key, "taken", sentence or f"It is `{place}`.")

    return rule


def choose(place: str, exact: Mapping[str, str], nearest: Mapping[str, str], otherwise: str) -> Rule:
    """A word of theirs as a word of ours: the same, the nearest one, or one for all that is unknown here."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        word = word_of(value)
        ours = exact.get(word) or nearest.get(word, otherwise)
        draft.put(place, ours, key=key)
        if word in exact:
            draft.note(key, "taken", f"It is `{place}: {ours}`.")
        else:
            draft.note(key, "changed", f"There is no `{word}` here; the nearest is `{place}: {ours}`.")

    return rule


def replaced(sentence: str) -> Rule:
    """The hub has its own way, which the sentence tells; the key is not needed."""
    return lambda draft, key, value: draft.note(key, "changed", sentence)


def unsupported(sentence: str) -> Rule:
    """It has no effect here; switched off, it has none there either."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.note(key, "taken", "It is off, and here too.")
        else:
            draft.note(key, "not_supported", sentence)

    return rule


def refused(sentence: str) -> Rule:
    """A training of another kind; switched off, it is none."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        if is_off(value):
            draft.note(key, "taken", "It is off, and here too.")
        else:
            draft.refuse(key, sentence)

    return rule


def read_elsewhere(sentence: str) -> Rule:
    """Another key's rule reads this one; what comes of it is told here."""
    return lambda draft, key, value: draft.note(key, "taken", sentence)


def needless(keys: str, *, because: str) -> dict[str, Rule]:
    """Keys, between spaces, that one sentence replaces."""
    return dict.fromkeys(keys.split(), replaced(because))


def missing(keys: str, *, because: str) -> dict[str, Rule]:
    """Keys, between spaces, that one sentence turns down."""
    return dict.fromkeys(keys.split(), unsupported(because))


def is_off(value: Any) -> bool:
    return value in (None, False, 0, "", "none", "None", "no") or value == [] or value == {}


def word_of(value: Any) -> str:
    """A scalar as text; what is no scalar is no word, and stays short in a sentence."""
    return str(value)[:80] if isinstance(value, str | int | float | bool) else f"a {type(value).__name__}"


def number_of(value: Any) -> Any:
    """`1e-4` is text in YAML 1.1 and a number to everybody else. What is no number stays for the spec to refuse."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def flag_of(value: Any) -> bool:
    return word_of(value).lower() in {"true", "1", "yes"}


def names_of(value: Any) -> list[str]:
    """A list, or names between commas."""
    parts = value if isinstance(value, list) else word_of(value).split(",")
    return [word_of(part).strip() for part in parts if word_of(part).strip()]


def slug_of(text: str) -> str:
    """A name that the hub allows, made of any text: `Owner/My Data` becomes `owner-my-data`."""
    single = re.sub(r"[^a-z0-9._]+", "-", text.lower())
    single = re.sub(r"([._-])[._-]+", r"\1", single)
    return single.strip("._-")[:MAX_NAME_LENGTH].strip("._-") or "dataset"
