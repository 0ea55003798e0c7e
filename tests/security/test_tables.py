"""Tables of any shape are read in time that grows with their bytes, and in the memory of a row."""

from __future__ import annotations

import time
from pathlib import Path

from finetune_hub.data.report import look_at
from tests.security.test_containers import look_in_a_process

COLUMNS = 100_000
LIMIT_SECONDS = 30  # They take less than one; a count for every column took over 300.


def test_many_columns(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    names, cells = ",".join(f"c{number}" for number in range(COLUMNS)), ",".join(["1"] * COLUMNS)
    began = time.monotonic()
    path.write_text(f"question,answer,{names}\nhi,ho,{cells}\n")
    assert look_at(path).row_count == 1
    path.write_text(f"{names}\n{cells}\n")
    assert look_at(path).errors[0].code == "unknown_format"
    path.write_text(f"{names},{names}\n{cells},{cells}\n")
    assert look_at(path).errors[0].code == "invalid_heading"
    assert time.monotonic() - began < LIMIT_SECONDS


def test_a_row_over_many_lines_has_the_limit_of_a_row(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"question,answer\n" + b'"x\n",' * 8_000_000 + b"1\na,b\n")
    mib, report = look_in_a_process(path)
    assert report.errors[0].code == "row_too_long"
    assert mib < 700, "8 million cells in one row take more"


def test_a_row_with_many_defects_places_the_first(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    turns = ",".join(['{"role": "x", "content": "y"}'] * 20_000)
    path.write_text(f'{{"messages": [{turns}]}}\n')
    began = time.monotonic()
    report = look_at(path)
    assert report.error_count == 20_000
    assert [error.column is not None for error in report.errors[19:21]] == [True, False]
    assert time.monotonic() - began < LIMIT_SECONDS
