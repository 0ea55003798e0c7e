"""The interface of a dataset format: recognise its rows and convert them to ours."""

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
        """Return why the row seems to have this format, as a clause; None if it does not."""

    def convert(self, row: Document) -> Row:
        """Convert the row to one of ours.

        Raises:
            BadRow: with all its problems.
        """


def text_at(row: Document, name: str, problems: list[RowProblem], *, path: Path = ()) -> str:
    """Return the text in a field; if there is none, add a problem and return an empty text."""
    value = row.get(name)
    if not isinstance(value, str):
        what = "is missing" if value is None else f"is a {json_type(value)}, not text"
        problems.append(RowProblem("invalid_content", f"`{name}` {what}", "Use a single string.", path=(*path, name)))
        return ""
    return value


def optional_text(row: Document, name: str, problems: list[RowProblem]) -> str:
    """Return the text in a field; empty if there is none."""
    return "" if row.get(name) is None else text_at(row, name, problems)


def first_of(row: Document, *names: str) -> str | None:
    """Return the first of the fields that has a value in the row."""
    return next((name for name in names if row.get(name) is not None), None)


def quoted(*names: str) -> str:
    """Return the names for a sentence: `prompt`, `chosen` and `rejected`."""
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
