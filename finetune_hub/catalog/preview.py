"""What a base model would see of a dataset: one row token by token, and the lengths of all. Without torch.

Templates and measurements stay in this process once they were made, so that turning to the next row, or moving
`max_seq_len`, costs no second look at the files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from threading import Lock
from typing import Any

from finetune_hub.catalog.local_files import dataset_file, tokenizer_folder
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.chat_template import ChatTemplate, EncodedRow
from finetune_hub.data.encode import encode_row
from finetune_hub.data.kept_rows import KeptRows
from finetune_hub.data.rows import Row
from finetune_hub.data.token_statistics import MeasuredRow, TokenStatistics, measure, numbers_to_measure, summarise
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.row_kinds import RowKind

SHOWN_TOKENS = 2000
_rendering = Lock()  # A template notes its spans while it renders: one row at a time.


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the preview shows it."""

    id: int
    text: str  # Of a character that several tokens share, all of it in the first of them.
    supervised: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class RowPreview:
    """One row through the base model's template and tokenizer."""

    number: int
    row_count: int
    document: dict[str, Any]
    tokens: list[Token]  # The first 2,000.
    token_count: int
    supervised_count: int  # Within `max_seq_len`.
    truncated_count: int


def preview_row(version: DatasetVersion, base_model: BaseModel, number: int, max_seq_len: int) -> RowPreview:
    """One row as the trainer would learn it.

    Raises:
        Refusal: `unknown_row`, `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    row = find_row(version, number)
    template = _template(base_model.revision, base_model)
    with _rendering:
        encoded = encode_row(template, row)
    kept = encoded.supervised[:max_seq_len]
    return RowPreview(
        number=number,
        row_count=version.row_count,
        document=row.document(),
        tokens=_tokens(template, encoded, max_seq_len),
        token_count=len(encoded.input_ids),
        supervised_count=sum(kept[1:]),
        truncated_count=max(0, len(encoded.input_ids) - max_seq_len),
    )


def token_statistics(version: DatasetVersion, base_model: BaseModel, max_seq_len: int) -> TokenStatistics:
    """Lengths of the rows, and what is lost beyond `max_seq_len`.

    Raises:
        Refusal: `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    measured = measured_rows(version, base_model)
    return summarise(measured, row_count=version.row_count, max_seq_len=max_seq_len)


def measured_rows(version: DatasetVersion, base_model: BaseModel) -> list[MeasuredRow]:
    """Lengths of all rows, or of a sample of them.

    Raises:
        Refusal: `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    require_alive(version)
    return _measurement(version, base_model)


def find_row(version: DatasetVersion, number: int) -> Row:
    """
    Raises:
        Refusal: `unknown_row`, `dataset_deleted`.
    """
    require_alive(version)
    row = kept_rows(version).row(number) if number >= 1 else None
    if row is None:
        raise Refusal(
            "unknown_row",
            f"{version} has no row {number:,}.",
            f"Its rows are numbered from 1 to {version.row_count:,}.",
            field="row",
            kind="missing",
        )
    return row


def kept_rows(version: DatasetVersion) -> KeptRows:
    return KeptRows(dataset_file(version), RowKind(version.kind), version.row_offsets)


@lru_cache(maxsize=16)
def _template(revision: str, base_model: BaseModel) -> ChatTemplate:
    return ChatTemplate.from_folder(tokenizer_folder(base_model))


@lru_cache(maxsize=64)
def _measurement(version: DatasetVersion, base_model: BaseModel) -> list[MeasuredRow]:
    template = _template(base_model.revision, base_model)
    with _rendering:
        return measure(template, kept_rows(version).rows(numbers_to_measure(version.row_count, version.size_bytes)))


def _tokens(template: ChatTemplate, encoded: EncodedRow, max_seq_len: int) -> list[Token]:
    tokens = []
    shown = 0  # Characters that stand in tokens already.
    pairs = zip(encoded.input_ids[:SHOWN_TOKENS], encoded.spans, encoded.supervised, strict=False)
    for index, (id_, (start, end), supervised) in enumerate(pairs):
        text = encoded.text[shown:end] if end > start else template.token(id_)
        shown = max(shown, end)
        # The first token is never learned: nothing in front of it could predict it.
        tokens.append(Token(id_, text, supervised and index > 0, truncated=index >= max_seq_len))
    return tokens
