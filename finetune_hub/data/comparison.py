"""Two kept files compared: what came, went and changed between versions, and what one asks that the other asks too.

    the same row     its JSON is the same, byte for byte
    a changed row    asks the same as a row that went, and is another row
    a leaked row     asks what a row of the other file asks, but for case, punctuation and white space
    nearly leaked    of the three-word shingles of both questions, four fifths are in both (Jaccard)

Near duplicates are found without comparing all pairs: the smallest hashes of a text's shingles are a fair sample of
them, so like texts share some (Broder 1997, "On the resemblance and containment of documents").
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
_KEYS = 8  # Of the sketch, by which rows that may be alike are looked up.
_CROWD = 50  # A key of more rows is boilerplate, and tells nothing.
_NO_WORD = re.compile(r"\W+")

Sketch = tuple[int, ...]


class VersionDiff(Answer):
    """What became of the rows from one version to another. Rows are named by number."""

    added: int
    removed: int
    changed: int = Field(description="Rows that ask the same as before, and are answered otherwise.")
    unchanged: int
    added_rows: list[int] = Field(description="The first of them, in the newer version.")
    removed_rows: list[int] = Field(description="The first of them, in the older version.")
    changed_rows: list[tuple[int, int]] = Field(description="The first of them: in the older and the newer version.")

    @property
    def sentence(self) -> str:
        parts = [(self.added, "added"), (self.removed, "removed"), (self.changed, "changed")]
        told = ", ".join(f"{count:,} {word}" for count, word in parts if count)
        return f"{told or 'Nothing differs'}; {self.unchanged:,} unchanged."


class Leak(Answer):
    """A row that asks what a row of the other file asks."""

    row: int
    other_row: int
    similarity: float = Field(description="1: the same words; else about how much of both is shared.")


class Overlap(Answer):
    """How many rows of a file ask what another file asks, which spoils a comparison of the two."""

    rows: int
    same: int = Field(description="Rows with a question that is in the other file word for word.")
    near: int = Field(description="Rows with a question that is nearly one in the other file.")
    leaks: list[Leak] = Field(description="The first of them.")

    @property
    def sentence(self) -> str:
        if not self.same + self.near:
            return f"None of its {self.rows:,} rows asks what the other asks."
        return (
            f"{self.same:,} of its {self.rows:,} rows ask what the other asks word for word, {self.near:,} nearly so."
        )


class Comparison(Answer):
    """One version seen from another."""

    diff: VersionDiff = Field(description="From the other version to this one.")
    overlap: Overlap = Field(description="What this version asks that the other asks too.")


def diff_files(old: Path, new: Path) -> VersionDiff:
    """Rows that came, went and changed; the order of rows does not matter."""
    left = Counter(_print(line) for _, line in _lines(old))
    unchanged = 0
    came: dict[int, list[int]] = defaultdict(list)  # Question → numbers of new rows that ask it.
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
    """Rows of `file` that ask what a row of `other` asks. A file compared with itself tells its own duplicates."""
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
    """Numbers of the rows to hold out: rows that ask the same go together, so that no question is on both sides."""
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
    """The words of what a row asks: its user's turns, its prompt, or its text."""
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
    """The smallest hashes of the text's shingles, ascending."""
    words = text.split(" ")
    last = max(1, len(words) - _SHINGLE_WORDS + 1)
    shingles = {crc32(" ".join(words[start : start + _SHINGLE_WORDS]).encode()) for start in range(last)}
    return tuple(sorted(shingles)[:_SKETCH_SIZE])


def _likeness(one: Sketch, other: Sketch) -> float:
    """About the share of shingles that are in both: exactly that where the texts are short."""
    smallest = sorted({*one, *other})[:_SKETCH_SIZE]
    both = set(one) & set(other)
    return sum(shingle in both for shingle in smallest) / len(smallest)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    with path.open("rb") as file:
        yield from enumerate((line for line in file if not line.isspace()), start=1)


def _print(data: bytes) -> int:
    return int.from_bytes(blake2b(data.strip(), digest_size=8).digest(), "big")
