"""How a base model sees a dataset: one row token by token, and the lengths of all rows. Without torch.

Measurements are cached here, and templates in their own process, so that the next row or another `max_seq_len` does not
need the files again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from finetune_hub.catalog.local_files import dataset_file, tokenizer_folder
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.tombstones import require_alive
from finetune_hub.data.kept_rows import KeptRows
from finetune_hub.data.rows import Row
from finetune_hub.data.template_process import measure_in_time, with_template, with_template_long
from finetune_hub.data.token_preview import RowTokens, row_tokens
from finetune_hub.data.token_statistics import MeasuredRow, TokenStatistics, numbers_to_measure, summarise
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.row_kinds import RowKind


@dataclass(frozen=True, slots=True)
class RowPreview(RowTokens):
    """One row through the base model's template and tokenizer."""

    number: int
    row_count: int
    document: dict[str, Any]


def preview_row(version: DatasetVersion, base_model: BaseModel, number: int, max_seq_len: int) -> RowPreview:
    """Return a row as the trainer would see it.

    Raises:
        Refusal: `unknown_row`, `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    row = find_row(version, number)
    shown = with_template(tokenizer_folder(base_model), base_model.revision, row_tokens, row, max_seq_len)
    return RowPreview(
        shown.tokens,
        shown.token_count,
        shown.supervised_count,
        shown.truncated_count,
        number=number,
        row_count=version.row_count,
        document=row.document(),
    )


def token_statistics(version: DatasetVersion, base_model: BaseModel, max_seq_len: int) -> TokenStatistics:
    """Return the rows' lengths and what `max_seq_len` truncates.

    Raises:
        Refusal: `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    measured = measured_rows(version, base_model)
    return summarise(measured, row_count=version.row_count, max_seq_len=max_seq_len)


def measured_rows(version: DatasetVersion, base_model: BaseModel) -> list[MeasuredRow]:
    """Measure all rows or a sample of them.

    Raises:
        Refusal: `unrenderable_row`, `dataset_deleted`.
        ArtifactError: the store does not have a file.
    """
    require_alive(version)
    return _measurement(version, base_model)


def find_row(version: DatasetVersion, number: int) -> Row:
    """Return a row by its number.

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


@lru_cache(maxsize=64)
def _measurement(version: DatasetVersion, base_model: BaseModel) -> list[MeasuredRow]:
    rows = list(kept_rows(version).rows(numbers_to_measure(version.row_count, version.size_bytes)))
    return with_template_long(tokenizer_folder(base_model), base_model.revision, measure_in_time, rows)
