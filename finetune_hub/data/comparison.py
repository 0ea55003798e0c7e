"""Comparison of two stored files: rows added, removed and changed, and questions that are in both.

    same row         its JSON is identical, byte for byte
    changed row      has the same question as a removed row, but is otherwise different
    leaked row       has the same question as a row of the other file, ignoring case, punctuation and white space
    nearly leaked    the three-word shingles of both questions have a Jaccard similarity of at least 0.8

Near duplicates are found without comparing all pairs: the smallest hashes of a text's shingles are an unbiased sample,
so similar texts share some (Broder 1997, "On the resemblance and containment of documents").
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import Any
from zlib import crc32

import orjson
from pydantic import Field

from finetune_hub.spec.answer import Answer

NAMED_ROWS = 10
NEAR = 0.8
_SHINGLE_WORDS = 3
_SKETCH_SIZE = 64
_KEYS = 8  # Hashes of a sketch that are used to look up possibly similar rows.
_CROWD = 50  # A hash that more rows share is boilerplate and is ignored.
_NO_WORD = re.compile(r"\W+")

Sketch = tuple[int, ...]


class VersionDiff(Answer):
    """The differences in rows from one version to another. Rows are identified by number."""

    added: int
    removed: int
    changed: int = Field(description="Rows with the same question as before and a different answer.")
    unchanged: int
    added_rows: list[int] = Field(description="The first ones, in the newer version.")
    removed_rows: list[int] = Field(description="The first ones, in the older version.")
    changed_rows: list[tuple[int, int]] = Field(
        description="The first ones: row in the older and in the newer version."
    )

    @property
    def sentence(self) -> str:
        parts = [(self.added, "added"), (self.removed, "removed"), (self.changed, "changed")]
        told = ", ".join(f"{count:,} {word}" for count, word in parts if count)
        return f"{told or 'No differences'}; {self.unchanged:,} unchanged."


class Leak(Answer):
    """A row whose question is also in the other file."""

    row: int
    other_row: int
    similarity: float = Field(description="1: same words; otherwise about how much of both is shared.")


class Overlap(Answer):
    """How many questions of a file are in another file too, which would distort an evaluation."""

    rows: int
    same: int = Field(description="Rows whose question is in the other file word for word.")
    near: int = Field(description="Rows whose question is nearly the same as one in the other file.")
    leaks: list[Leak] = Field(description="The first ones.")

    @property
    def sentence(self) -> str:
        if not self.same + self.near:
            return f"None of its {self.rows:,} questions is in the other version."
        return (
            f"{self.same:,} of its {self.rows:,} questions are in the other version verbatim, {self.near:,} nearly so."
        )


class Comparison(Answer):
    """A comparison of one version with another."""

    diff: VersionDiff = Field(description="From the other version to this one.")
    overlap: Overlap = Field(description="Questions of this version that are in the other too.")


def diff_files(old: Path, new: Path) -> VersionDiff:
    """Return the rows added, removed and changed; the order of rows does not matter."""
    left = Counter(_print(line) for _, line in _lines(old))
    unchanged = 0
    came: dict[int, list[int]] = defaultdict(list)  # Question → numbers of new rows with it.
    for number, line in _lines(new):
        key = _print(line)
        if left[key] > 0:
            left[key] -= 1
            unchanged += 1
        else:
            came[_print(asked(line).encode())].append(number)
    removed: list[int] = []
    changed: list[tuple[int, int]] = []
    for number, line in _lines(old):
        key = _print(line)
        if left[key] > 0:
            left[key] -= 1
            answered = came.get(_print(asked(line).encode()))
            if answered:
                changed.append((number, answered.pop(0)))
            else:
                removed.append(number)
    added = sorted(number for numbers in came.values() for number in numbers)
    return VersionDiff(
        added=len(added),
        removed=len(removed),
        changed=len(changed),
        unchanged=unchanged,
        added_rows=added[:NAMED_ROWS],
        removed_rows=removed[:NAMED_ROWS],
        changed_rows=changed[:NAMED_ROWS],
    )


def find_overlap(file: Path, other: Path) -> Overlap:
    """Return rows of `file` whose question is in `other`. Comparing a file with itself finds its duplicates."""
    within = file == other
    exact: dict[str, int] = {}
    sketches: dict[int, Sketch] = {}
    by_key: dict[int, list[int]] = defaultdict(list)

    def learn(number: int, question: str, sketch: Sketch) -> None:
        exact.setdefault(question, number)
        sketches[number] = sketch
        for key in sketch[:_KEYS]:
            by_key[key].append(number)

    if not within:
        for number, line in _lines(other):
            question = asked(line)
            learn(number, question, _sketch(question))
    overlap = Overlap(rows=0, same=0, near=0, leaks=[])
    for number, line in _lines(file):
        overlap.rows += 1
        question = asked(line)
        sketch = _sketch(question)
        leak = _leak_of(number, question, sketch, exact, sketches, by_key)
        if leak:
            overlap.same += leak.similarity == 1
            overlap.near += leak.similarity < 1
            overlap.leaks += [leak] if len(overlap.leaks) < NAMED_ROWS else []
        if within:
            learn(number, question, sketch)
    return overlap


def choose_held_out(file: Path, fraction: float, seed: int) -> set[int]:
    """Return the numbers of the rows to hold out. Rows with the same question stay together, on one side."""
    groups: dict[int, list[int]] = defaultdict(list)
    rows = 0
    for number, line in _lines(file):
        groups[_print(f"{seed}\0{asked(line)}".encode())].append(number)
        rows += 1
    held_out: set[int] = set()
    wanted = max(1, round(rows * fraction))
    for key in sorted(groups):
        if len(held_out) + len(groups[key]) <= wanted or not held_out:
            held_out.update(groups[key])
        if len(held_out) >= wanted:
            break
    return held_out


def asked(line: bytes) -> str:
    """Return the words of a row's question: its user turns, its prompt, or its text."""
    row = orjson.loads(line)
    value = next((row[name] for name in ("messages", "prompt", "text") if name in row), "")
    return " ".join(_NO_WORD.sub(" ", _question(value).casefold()).split())


def _question(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "\n".join(message.get("content") or "" for message in value if message["role"] == "user")


def _leak_of(
    number: int,
    question: str,
    sketch: Sketch,
    exact: dict[str, int],
    sketches: dict[int, Sketch],
    by_key: dict[int, list[int]],
) -> Leak | None:
    if question in exact:
        return Leak(row=number, other_row=exact[question], similarity=1)
    shared = Counter(
        other for key in sketch[:_KEYS] if len(by_key.get(key, ())) <= _CROWD for other in by_key.get(key, ())
    )
    best, similarity = 0, 0.0
    for other, _ in shared.most_common(_KEYS):
        likeness = _likeness(sketch, sketches[other])
        if likeness > similarity:
            best, similarity = other, likeness
    return Leak(row=number, other_row=best, similarity=min(similarity, 0.999)) if similarity >= NEAR else None


def _sketch(text: str) -> Sketch:
    """Return the smallest hashes of the text's shingles, in ascending order."""
    words = text.split(" ")
    last = max(1, len(words) - _SHINGLE_WORDS + 1)
    shingles = {crc32(" ".join(words[start : start + _SHINGLE_WORDS]).encode()) for start in range(last)}
    return tuple(sorted(shingles)[:_SKETCH_SIZE])


def _likeness(one: Sketch, other: Sketch) -> float:
    """Estimate the share of shingles that are in both; exact for short texts."""
    smallest = sorted({*one, *other})[:_SKETCH_SIZE]
    both = set(one) & set(other)
    return sum(shingle in both for shingle in smallest) / len(smallest)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from enumerate((line for line in file if not line.isspace()), start=1)


def _print(data: bytes) -> int:
    return int.from_bytes(blake2b(data.strip(), digest_size=8).digest(), "big")
