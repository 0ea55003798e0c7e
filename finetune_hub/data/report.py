"""Check a whole dataset file and optionally store it: good rows in our format, rejected rows separately.

rows.jsonl         good rows, one per line: what the trainer reads
quarantine.jsonl   rejected rows, one per line, with their defects: {"line", "errors", "row"}
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO

import orjson
from pydantic import BaseModel, Field

from finetune_hub.data.defects import BrokenFile, Defect, InvalidDataset, refusal_of
from finetune_hub.data.formats.mapped import PARTS
from finetune_hub.data.intake import RecognisedFile, Rejected, UnknownFormat, unknown_format
from finetune_hub.data.rows import ChatRow, CompletionRow, LabelledRow, PreferenceRow, TextRow
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.row_kinds import RowKind

ROWS_FILE = "rows.jsonl"
QUARANTINE_FILE = "quarantine.jsonl"
FIRST_ROWS = 5
ROWS_PER_OFFSET = 1000
MAX_DEFECTS = 100
_KINDS: dict[type, RowKind] = {
    ChatRow: RowKind.CHAT,
    CompletionRow: RowKind.COMPLETION,
    TextRow: RowKind.TEXT,
    PreferenceRow: RowKind.PREFERENCE,
    LabelledRow: RowKind.LABELLED,
}


class Recognition(BaseModel):
    """What a file was recognised as, and why."""

    container: str = Field(description="JSONL, JSON, CSV, TSV, Parquet or text.")
    container_reason: str
    compression: str | None
    format: str = Field(description="For programs: `sharegpt`.")
    title: str = Field(description="For people.")
    reason: str

    @property
    def sentence(self) -> str:
        packed = f", compressed with {self.compression}" if self.compression else ""
        return f"{self.title} in {self.container}{packed}: {self.reason} ({self.container_reason})."


class DatasetReport(BaseModel):
    """The result of checking a whole file."""

    file_name: str
    recognised: Recognition | None = Field(description="null: its format is unknown, or it could not be read.")
    columns: list[str] = Field([], description="Column names in its first rows.")
    kind: RowKind | None = Field(None, description="The kind of its rows; null if there are no good rows.")
    row_count: int = Field(0, description="Good rows.")
    rejected_count: int = Field(0, description="Rows that cannot be trained on.")
    error_count: int = Field(0, description="All defects; `errors` has only the first ones.")
    is_cut_short: bool = Field(False, description="The rest of the file could not be read.")
    errors: list[Defect] = []
    first_rows: list[dict[str, Any]] = []
    sha256: str = Field("", description="Of the good rows as stored.")
    size_bytes: int = Field(0, description="Of the good rows as stored.")
    row_offsets: list[int] = Field([], description="Byte offsets of rows 1, 1001, 2001 … as stored.")

    @property
    def is_sound(self) -> bool:
        """Whether the file can be trained on as it is."""
        return self.error_count == 0

    @property
    def may_go_on(self) -> bool:
        """Whether there are good rows to keep without the rejected ones."""
        return self.row_count > 0 and not self.is_cut_short

    @property
    def is_unknown(self) -> bool:
        """Whether only a mapping of its columns is missing."""
        return any(error.code == "unknown_format" for error in self.errors)

    def raise_for_errors(self) -> None:
        """Raises:
        InvalidDataset: the file has a defect.
        """
        if not self.is_sound:
            raise InvalidDataset(self.file_name, self.errors, self.error_count)

    def refusal(self) -> Refusal:
        """Return the refusal of the file by service and CLI."""
        if self.is_unknown:
            unknown = self.errors[0]
            return Refusal(
                "unknown_format",
                f"{self.file_name} {unknown.message}.",
                f"{unknown.remedy} The parts are {', '.join(PARTS)}.",
                field="mapping",
                details=[{"column": column} for column in self.columns],
                failure_class="bad_data",
            )
        return refusal_of(self.file_name, self.errors, self.error_count)


def look_at(
    path: Path,
    *,
    file_name: str | None = None,
    mapping: Mapping[str, str] | None = None,
    keep_in: Path | None = None,
    max_defects: int = MAX_DEFECTS,
) -> DatasetReport:
    """Read the whole file and report its rows and defects.

    Args:
        keep_in: A folder for good and rejected rows; by default nothing is written.

    Raises:
        Refusal: `invalid_mapping`.
    """
    report = DatasetReport(file_name=file_name or path.name, recognised=None)
    try:
        file = RecognisedFile(path, report.file_name, mapping)
    except (BrokenFile, UnknownFormat, InvalidDataset) as unusable:
        report.errors = _defects_of(unusable)
        report.columns = unusable.columns if isinstance(unusable, UnknownFormat) else []
        report.error_count = len(report.errors)
        return report
    report.columns = file.columns
    report.recognised = Recognition(
        container=file.container.kind,
        container_reason=file.container.reason,
        compression=file.container.compression,
        format=file.format.name,
        title=file.format.title,
        reason=file.reason,
    )
    with ExitStack() as files:
        rows = quarantine = None
        if keep_in is not None:
            rows = files.enter_context((keep_in / ROWS_FILE).open("wb"))
            quarantine = files.enter_context((keep_in / QUARANTINE_FILE).open("wb"))
        _read(file, report, rows, quarantine, max_defects)
    return report


def _read(
    file: RecognisedFile, report: DatasetReport, rows: BinaryIO | None, quarantine: BinaryIO | None, max_defects: int
) -> None:
    digest = hashlib.sha256()
    row_count = size_bytes = 0
    for found in file.rows():
        if isinstance(found, Rejected):
            report.rejected_count += 1
            report.is_cut_short |= found.ends_here
            report.error_count += len(found.defects)
            report.errors += found.defects[: max_defects - len(report.errors)]
            if quarantine:
                quarantine.write(_quarantined(found))
            continue
        if row_count < FIRST_ROWS:
            report.kind = _KINDS[type(found.row)]
            report.first_rows.append(found.row.document())
        if row_count % ROWS_PER_OFFSET == 0:
            report.row_offsets.append(size_bytes)
        row_count += 1
        size_bytes += len(found.json)
        digest.update(found.json)
        if rows:
            rows.write(found.json)
    report.row_count, report.size_bytes, report.sha256 = row_count, size_bytes, digest.hexdigest()


def _quarantined(rejected: Rejected) -> bytes:
    document = {
        "line": rejected.defects[0].line,
        "errors": [
            {name: value for name, value in asdict(defect).items() if name != "line" and value is not None}
            for defect in rejected.defects
        ],
        "row": rejected.raw.decode(errors="replace"),
    }
    return orjson.dumps(document, option=orjson.OPT_APPEND_NEWLINE)


def _defects_of(unusable: BrokenFile | UnknownFormat | InvalidDataset) -> list[Defect]:
    match unusable:
        case BrokenFile():
            return [unusable.at(1)]
        case UnknownFormat():
            return [unknown_format(unusable)]
        case InvalidDataset():
            return unusable.defects
