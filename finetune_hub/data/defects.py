"""Defects of a dataset file, each with its location, a message and a remedy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from finetune_hub.spec.problem import Explained, FailureClass, Problem
from finetune_hub.spec.refusal import Refusal

NAMED_DEFECTS = 3
FIX_THE_ROWS = "Fix these rows, upload them to a hub as a new version, and submit the job again."

Path = tuple[str | int, ...]  # Path of a value in a row: ("messages", 1, "role").


@dataclass(frozen=True)
class Defect(Problem):
    """A problem of a file. Its message is a clause, `no assistant turn`; without a line it concerns the whole file."""

    @property
    def place(self) -> str:
        """`line 3, column 14`; empty for the whole file."""
        if self.line is None:
            return ""
        return f"line {self.line}" + (f", column {self.column}" if self.column else "")

    def __str__(self) -> str:
        where = "The file" if self.line is None else f"{self.place.capitalize()}:"
        return f"{where} {self.message}. {self.remedy}"


@dataclass(frozen=True)
class RowProblem(Problem):
    """A problem of one row, before its position in the file is known."""

    path: Path = ()

    def at(self, line: int, column: int | None) -> Defect:
        return Defect(self.code, self.message, self.remedy, spelled(self.path), line, column)


class BadRow(Exception):
    """The row cannot be trained on."""

    def __init__(self, problems: Sequence[RowProblem]) -> None:
        super().__init__("; ".join(problem.message for problem in problems))
        self.problems = list(problems)


class BrokenFile(Explained):
    """The rest of the file cannot be read."""

    failure_class: FailureClass = "bad_data"

    def __init__(self, code: str, message: str, remedy: str, *, whole_file: bool = False) -> None:
        """
        Args:
            message: A clause about the row or the file.
            whole_file: Whether the defect concerns the whole file.
        """
        super().__init__(Problem(code, message, remedy))
        self.whole_file = whole_file

    def at(self, line: int) -> Defect:
        """Return the defect at the line from which the file cannot be read."""
        return Defect(self.code, self.message, self.remedy, line=None if self.whole_file else line)


class InvalidDataset(Explained):
    """The dataset has rows that cannot be trained on."""

    failure_class: FailureClass = "bad_data"

    def __init__(self, file_name: str, defects: Sequence[Defect], count: int | None = None) -> None:
        self.file_name = file_name
        self.defects = list(defects)
        self.count = len(self.defects) if count is None else count
        named = " ".join(str(defect) for defect in self.defects[:NAMED_DEFECTS])
        more = self.count - min(len(self.defects), NAMED_DEFECTS)
        message = f"{file_name}: {named}" + (f" And {more} more." if more else "")
        super().__init__(Problem("invalid_dataset", message, FIX_THE_ROWS))


def refusal_of(file_name: str, defects: Sequence[Defect], count: int) -> Refusal:
    """Return the refusal of a file by service and CLI, with its first defect and the number of others."""
    first, more = defects[0], count - 1
    place = f"{file_name}, {first.place}" if first.place else file_name
    rest = f" ({more} more {'error' if more == 1 else 'errors'}.)" if more else ""
    return Refusal(
        "invalid_dataset",
        f"{place}: {first.message}.{rest}",
        first.remedy,
        field="file",
        details=[asdict(defect) for defect in defects],
        failure_class="bad_data",
    )


def spelled(path: Path) -> str | None:
    """Return a path as text, such as `messages[1].role`; None for the row itself."""
    text = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return text.removeprefix(".") or None


def json_type(value: object) -> str:
    """Return the JSON name of the value's type, or Python's name if JSON has no such type."""
    names = {
        type(None): "null",
        bool: "boolean",
        int: "number",
        float: "number",
        str: "string",
        list: "list",
        dict: "object",
    }
    return names.get(type(value), type(value).__name__)
