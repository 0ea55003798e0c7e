"""The interface of a dataset format: tell whether a row looks like it, and turn such a row into one of ours."""

from __future__ import annotations

from typing import Any, Protocol

from finetune_hub.data.defects import BadRow, Path, RowProblem, json_type
from finetune_hub.data.rows import Row

Document = dict[str, Any]


class Format(Protocol):
    """One format. `name` is for programs, `title` for people."""

    name: str
    title: str

    def looks(self, row: Document) -> str | None:
        """What in the row speaks for this format, as a clause; None: nothing does."""

    def convert(self, row: Document) -> Row:
        """The row as the hub keeps it.

        Raises:
            BadRow: with each of its problems.
        """


def text_at(row: Document, name: str, problems: list[RowProblem], *, path: Path = ()) -> str:
    """The text under a name; a problem, and an empty text, when there is none."""
    value = row.get(name)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"is a {json_type(value)}, not a text"
        problems.append(RowProblem("invalid_content", f"`{name}` {what}", "Give it one string.", path=(*path, name)))
        return ""
    return value


def optional_text(row: Document, name: str, problems: list[RowProblem]) -> str:
    """The text under a name; empty when there is none."""
    return "" if row.get(name) is None else text_at(row, name, problems)


def first_of(row: Document, *names: str) -> str | None:
    """The first of the names that the row has a value under."""
    return next((name for name in names if row.get(name) is not None), None)


def quoted(*names: str) -> str:
    """`prompt`, `chosen` and `rejected`, as sentences name them."""
    marks = [f"`{name}`" for name in names]
    return " and ".join([", ".join(marks[:-1]), marks[-1]]) if len(marks) > 1 else marks[0]


def raise_any(problems: list[RowProblem]) -> None:
    """Raises:
    BadRow: there is a problem.
    """
    if problems:
        raise BadRow(problems)


def no_answer(problems: list[RowProblem], name: str) -> None:
    problems.append(
        RowProblem(
            "no_assistant_turn", f"`{name}` is empty", "Add the answer that the model should learn.", path=(name,)
        )
    )
