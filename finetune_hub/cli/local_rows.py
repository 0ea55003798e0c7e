"""Count the rows of local files for planning, with the base model's tokenizer if there is one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from finetune_hub.cli.connection import HubError
from finetune_hub.data.defects import InvalidDataset
from finetune_hub.data.intake import read_rows
from finetune_hub.data.rows import Row
from finetune_hub.data.token_statistics import MeasuredRow, numbers_to_measure
from finetune_hub.scheduling.workload import Rows

NO_FILES = "The recipe names no local file, so the plan assumes 1,000 rows of `max_seq_len` tokens."
MEASURED = "The rows' lengths were measured with the base model's tokenizer."
GUESSED = "The rows' lengths are estimated from the file's size, at four bytes per token: {}."


def rows_in(files: Sequence[tuple[Path, float]], base_model: Path) -> tuple[Rows, str]:
    """Return the weighted rows of the files, and a sentence on how their lengths were determined.

    Raises:
        HubError: `file_unreadable`.
    """
    if not files:
        return Rows(1000), NO_FILES
    least = min(weight for _, weight in files)
    try:
        sizes = [path.stat().st_size * weight / least for path, weight in files]
        lines = [max(1, path.read_bytes().count(b"\n")) * weight / least for path, weight in files]
    except OSError as error:
        raise HubError("file_unreadable", f"{error.filename} cannot be read.", "Check the `path`.") from error
    guess = Rows.guessed(round(sum(lines)), round(sum(sizes)))
    try:
        measured = [_measure(path, base_model) for path, _ in files]
    except ModuleNotFoundError as missing:
        return guess, GUESSED.format(f"the package {missing.name} is not installed here")
    except _Unmeasurable as reason:
        return guess, GUESSED.format(reason)
    lengths: list[int] = []
    supervised = count = 0
    for (total, rows), (_, weight) in zip(measured, files, strict=True):
        drawn = round(total * weight / least)
        copies = max(1, round(drawn / len(rows)))
        lengths += [row.tokens for row in rows] * copies
        supervised += copies * sum(row.supervised_within(row.tokens) for row in rows)
        count += drawn
    return Rows(count, lengths, supervised / sum(lengths)), MEASURED


class _Unmeasurable(Exception):
    """The tokens cannot be counted; the message says why."""


def _measure(path: Path, base_model: Path) -> tuple[int, list[MeasuredRow]]:
    """Return the number of rows and a measured sample of them."""
    from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate
    from finetune_hub.data.token_statistics import measure

    try:
        template = ChatTemplate.from_folder(base_model)
        count = sum(1 for _ in read_rows(path))
        wanted = set(numbers_to_measure(count, path.stat().st_size))
        numbered: list[tuple[int, Row]] = [
            (number, row) for number, (_, row) in enumerate(read_rows(path), 1) if number in wanted
        ]
        rows = [row for row in measure(template, numbered) if not row.problem]
    except (InvalidChatTemplate, InvalidDataset) as refused:
        raise _Unmeasurable(refused.message.split("\n")[0].rstrip(".")) from refused
    if not rows:
        raise _Unmeasurable("the chat template refuses every row")
    return count, rows
