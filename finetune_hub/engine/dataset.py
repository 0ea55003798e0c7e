"""Training data: rows tokenised once, the order in which they are drawn, and batches without padding.

The order is a pure function of seed and position, so resuming needs only a number.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.data.chat_template import ChatTemplate, EncodedRow, InvalidChatTemplate
from finetune_hub.data.defects import InvalidDataset
from finetune_hub.data.intake import read_rows
from finetune_hub.data.report import look_at
from finetune_hub.data.rows import Row
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.transfer import send
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.run import DatasetFile

_NAMED_ROWS = 5


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One row, tokenised and truncated."""

    name: str  # `file.jsonl line 17`, for messages
    input_ids: Tensor  # (T,) int32
    targets: Tensor  # (S,) int32: positions whose next token is supervised
    truncated_tokens: int

    @classmethod
    def of(cls, name: str, encoded: EncodedRow) -> TokenRow:
        targets = torch.tensor(encoded.supervised[1:], dtype=torch.bool).nonzero()[:, 0].int()
        return cls(name, torch.tensor(encoded.input_ids, dtype=torch.int32), targets, encoded.truncated_tokens)

    @property
    def tokens(self) -> int:
        return len(self.input_ids)

    @property
    def supervised_tokens(self) -> int:
        return len(self.targets)

    @property
    def teaches(self) -> bool:
        """Whether supervised tokens are left after truncation."""
        return self.supervised_tokens > 0


@dataclass(frozen=True, slots=True)
class PairRow(TokenRow):
    """Two answers to one prompt: a row with the better one, plus the same prompt with the worse one."""

    rejected: TokenRow

    @property
    def tokens(self) -> int:
        return len(self.input_ids) + self.rejected.tokens

    @property
    def supervised_tokens(self) -> int:
        return len(self.targets) + self.rejected.supervised_tokens

    @property
    def teaches(self) -> bool:
        return len(self.targets) > 0 and self.rejected.teaches


@dataclass(frozen=True)
class WeightedRows:
    """The rows of one file and how often they are drawn."""

    rows: list[TokenRow]
    weight: float


@dataclass(frozen=True)
class Batch:
    """Concatenated rows. Shape letters:  T tokens of all rows,  S supervised tokens."""

    input_ids: Tensor  # (T,)
    positions: Tensor  # (T,) counted from 0 in each row
    lengths: tuple[int, ...]
    predictors: Tensor  # (S,) positions whose next token is supervised
    labels: Tensor  # (S,) that next token
    supervised: tuple[int, ...]  # number of supervised tokens of each row

    @classmethod
    def of(cls, rows: Sequence[TokenRow], device: str = "cpu") -> Batch:
        lengths = tuple(len(row.input_ids) for row in rows)
        input_ids = torch.cat([row.input_ids for row in rows]).long()
        starts = torch.tensor((0, *lengths[:-1])).cumsum(0)
        predictors = torch.cat([row.targets + start for row, start in zip(rows, starts, strict=True)]).long()
        positions = torch.cat([torch.arange(length) for length in lengths])
        labels = input_ids[predictors + 1]
        return cls(
            send(input_ids, device),
            send(positions, device),
            lengths,
            send(predictors, device),
            send(labels, device),
            tuple(len(row.targets) for row in rows),
        )

    def apart(self) -> list[Batch]:
        """Return each row as a separate batch."""
        starts = torch.tensor((0, *self.lengths[:-1])).cumsum(0).tolist()
        parts = zip(
            torch.split(self.input_ids, list(self.lengths)),
            torch.split(self.positions, list(self.lengths)),
            torch.split(self.predictors, list(self.supervised)),
            torch.split(self.labels, list(self.supervised)),
            starts,
            strict=True,
        )
        return [
            Batch(ids, positions, (len(ids),), predictors - start, labels, (len(labels),))
            for ids, positions, predictors, labels, start in parts
        ]


Encode = Callable[[ChatTemplate, Row, int, str], TokenRow]


def load_dataset(
    file: DatasetFile, template: ChatTemplate, max_seq_len: int, log: EventLog, encode: Encode
) -> WeightedRows:
    """Check, read and tokenise one file for the objective.

    Rows without supervised tokens after truncation are left out and named in the log.

    Raises:
        InvalidDataset: a row has a defect.
        BadData: the file is not the registered one, or has no supervised tokens.
        InvalidChatTemplate: the base model's template cannot be used, or refuses a row.
    """
    check_hash(file)
    rows: list[TokenRow] = []
    mute: list[TokenRow] = []
    for line, row in _rows_of(file.path):
        name = f"{file.path.name} line {line}"
        try:
            token_row = encode(template, row, max_seq_len, name)
        except InvalidChatTemplate as unusable:
            unusable.put_at(name)
            raise
        (rows if token_row.teaches else mute).append(token_row)
    named = ", ".join(row.name for row in mute[:_NAMED_ROWS])
    if not rows:
        raise BadData(
            f"No row of {file.path.name} has a supervised token within {max_seq_len} tokens ({named}).",
            "Raise `max_seq_len`, or shorten the text before the assistant's answer.",
        )
    if mute:
        log.warn(f"{len(mute)} rows have no supervised token within {max_seq_len} tokens and are left out: {named}.")
    return WeightedRows(rows, file.weight)


def _rows_of(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield the file's rows with their line numbers. If a row is defective, read all again to report every defect."""
    is_empty = True
    try:
        for found in read_rows(path):
            is_empty = False
            yield found
    except InvalidDataset:
        look_at(path).raise_for_errors()
        raise
    if is_empty:
        look_at(path).raise_for_errors()


def check_hash(file: DatasetFile) -> None:
    """Raises:
    BadData: the file is missing or is not the registered one.
    """
    path = Path(file.path)
    if not path.is_file():
        raise BadData(f"The dataset file {path.name} is missing.", "Upload it again.")
    if sha256_of(path) != file.sha256:
        raise BadData(f"The dataset file {path.name} does not match its SHA-256.", "Fetch or upload it again.")


class RowOrder:
    """An endless stream of rows, one epoch after another, each shuffled by seed and epoch number.

    An epoch draws the dataset with the lowest weight once, and one with twice the weight twice; fractions are sampled.
    """

    def __init__(self, datasets: Sequence[WeightedRows], seed: int) -> None:
        self._datasets = datasets
        self._seed = seed
        least = min(dataset.weight for dataset in datasets)
        self._shares = [round(len(dataset.rows) * dataset.weight / least) for dataset in datasets]
        self.rows_per_epoch = sum(self._shares)
        self._epoch = -1
        self._rows: list[TokenRow] = []

    def rows(self, start: int, stop: int) -> list[TokenRow]:
        """Return rows [start, stop) of the stream."""
        return [self._row(position) for position in range(start, stop)]

    def _row(self, position: int) -> TokenRow:
        epoch, index = divmod(position, self.rows_per_epoch)
        if epoch != self._epoch:
            self._rows, self._epoch = self._shuffle(epoch), epoch
        return self._rows[index]

    def _shuffle(self, epoch: int) -> list[TokenRow]:
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + epoch)
        drawn: list[TokenRow] = []
        for dataset, share in zip(self._datasets, self._shares, strict=True):
            copies, rest = divmod(share, len(dataset.rows))
            drawn += dataset.rows * copies
            drawn += [dataset.rows[i] for i in torch.randperm(len(dataset.rows), generator=generator)[:rest].tolist()]
        return [drawn[i] for i in torch.randperm(len(drawn), generator=generator).tolist()]
