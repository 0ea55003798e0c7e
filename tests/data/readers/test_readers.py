"""Whatever the bytes are, a reader gives rows or defects with their lines, and never a traceback."""

from __future__ import annotations

import gzip
import io
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finetune_hub.data import compression
from finetune_hub.data.readers import json_rows, records
from finetune_hub.data.readers.json_rows import read_json_values
from finetune_hub.data.readers.records import Record, Unread
from finetune_hub.data.report import DatasetReport, look_at

NAMES = ["rows.jsonl", "rows.json", "rows.csv", "rows.tsv", "rows.txt", "rows.parquet", "rows", "rows.csv.gz"]
PIECES = st.sampled_from(
    [b'{"text": "a"}', b'{"text": "b"}\n', b"[", b"]", b"{", b"}", b'"', b"\\", b",", b"\n", b"\r\n", b"\0", b"\xff",
     b"\xef\xbb\xbf", b"\xff\xfe", b"PAR1", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"text,b\n", b"a\tb\n", b"1,2\n",
     b'{"messages": [', b"[" * 2000, b"9" * 400, b"\\u0000", b"a" * 300]
)  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.one_of(st.binary(max_size=200), st.lists(PIECES, max_size=12).map(b"".join)), st.sampled_from(NAMES))
def test_no_bytes_end_in_a_traceback(content: bytes, name: str) -> None:
    report = look_at_bytes(content, name)
    lines = content.count(b"\n") + 1
    for error in report.errors:
        assert error.line is None or 1 <= error.line <= lines or name.endswith("gz")
        assert error.message
        assert error.remedy.endswith(".")
    assert report.row_count or report.errors


@settings(max_examples=60, deadline=None)
@given(st.binary(min_size=1, max_size=40), st.integers(0, 10_000), st.sampled_from(["gzip", "zstd", "parquet"]))
def test_damage_anywhere_in_a_packed_file_is_told(damage: bytes, place: int, kind: str) -> None:
    content = packed(b'{"text": "some words"}\n' * 500, kind)
    place %= len(content)
    broken = content[:place] + damage + content[place + len(damage) :]
    report = look_at_bytes(broken, "rows.jsonl")
    assert report.row_count + len(report.errors) > 0


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
@pytest.mark.parametrize("kept", [0.3, 0.95])
def test_a_packed_file_cut_short_is_told_with_its_line(kind: str, kept: float) -> None:
    rows = b"".join(b'{"text": "%d"}\n' % (number * 7919) for number in range(20_000))
    content = packed(rows, kind)
    report = look_at_bytes(content[: int(len(content) * kept)], "rows.jsonl")
    last = report.errors[-1]
    assert last.code == "damaged_compression"
    assert last.line is not None
    assert last.line >= report.row_count
    assert not report.may_go_on  # Nobody knows how much is missing.


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(VALUES, max_size=6), st.sampled_from([None, 2]), st.booleans(), st.integers(1, 40), st.booleans())
def test_values_are_parted_wherever_a_chunk_ends(
    values: list[Any], indent: int | None, in_array: bool, chunk: int, ascii_only: bool
) -> None:
    texts = [json.dumps(value, indent=indent, ensure_ascii=ascii_only) for value in values]
    text = f"[\n{', '.join(texts)}\n]" if in_array else "\n".join(texts)
    if not in_array and text.startswith("["):
        text = "0\n" + text  # What begins with a bracket is an array of rows.
        values = [0, *values]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_rows, "_CHUNK_BYTES", chunk)
        found = list(read_json_values(io.BytesIO(text.encode())))
    assert [record.value for record in found if isinstance(record, Record)] == values
    if indent is None:
        expected = [2] * len(values) if in_array else list(range(1, len(values) + 1))
        assert [record.line for record in found if isinstance(record, Record)] == expected


def test_a_broken_value_in_an_array_costs_one_row() -> None:
    found = list(read_json_values(io.BytesIO(b'[\n{"a": 1},\n{"a" 2},\n{"a": 3}\n]')))
    assert [item.value for item in found if isinstance(item, Record)] == [{"a": 1}, {"a": 3}]
    defect = next(item.defect for item in found if isinstance(item, Unread))
    assert (defect.line, defect.column, defect.code) == (3, 6, "invalid_json")


def test_an_array_that_never_closes_names_the_place() -> None:
    found = list(read_json_values(io.BytesIO(b'[\n{"a": 1},\n{"a": [}\n,{"a": 3}')))
    assert isinstance(found[-1], Unread)
    assert found[-1].defect.line == 3
    assert "line 3, column 8" in found[-1].defect.message


TABLE_CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=12)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(TABLE_CELL, TABLE_CELL.filter(str.strip)), min_size=1, max_size=5), st.sampled_from(",\t;"))
def test_a_table_gives_back_what_was_written(rows: list[tuple[str, str]], delimiter: str) -> None:
    import csv

    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, quoting=csv.QUOTE_ALL, lineterminator="\r\n")
    writer.writerows([("question", "answer"), *rows])
    report = look_at_bytes(text.getvalue().encode("utf-8-sig"), "rows.tsv" if delimiter == "\t" else "rows.csv")
    storable = [row for row in rows if "\0" not in "".join(row)][:5]
    seen = [tuple(message["content"] for message in row["messages"]) for row in report.first_rows]
    assert seen == storable
    assert {error.code for error in report.errors} <= {"not_storable"}


def test_a_table_tells_its_lines() -> None:
    report = look_at_bytes(b'question,answer\n"two\nlines",b\na\nc,"d" x\ne,f\n\xff,g\nh,i\n', "rows.csv")
    assert report.row_count == 3
    assert [(error.line, error.code) for error in report.errors] == [
        (4, "wrong_column_count"),
        (5, "invalid_table_row"),
        (7, "not_utf8"),
    ]
    assert look_at_bytes(b"a,a\n1,2\n", "x.csv").errors[0].code == "invalid_heading"


def test_paragraphs_are_rows() -> None:
    report = look_at_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\r\nthree \xc3\xa9\n", "notes.txt")
    assert [row["text"] for row in report.first_rows] == ["one\ntwo", "three é"]


def test_parquet_rows_are_read_with_their_numbers() -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    turns = [{"role": "user", "content": "a", "tool_calls": None}, {"role": "assistant", "content": "b"}]
    table = pyarrow.Table.from_pylist([{"messages": turns}, {"messages": turns[:1]}])
    file = io.BytesIO()
    parquet.write_table(table, file)
    for content in (file.getvalue(), gzip.compress(file.getvalue())):
        report = look_at_bytes(content, "rows.parquet")
        assert report.row_count == 1
        assert [(error.line, error.code) for error in report.errors] == [(2, "no_assistant_turn")]


@pytest.mark.parametrize(
    ("name", "content", "container"),
    [
        ("x.jsonl", b'{"text": "a"}\n{"text": "b"}\n', "JSONL"),
        ("x.json", b'{"text": "a"}\n{"text": "b"}\n', "JSONL"),
        ("x.jsonl", b'[{"text": "a"}]\n', "JSON"),
        ("x.jsonl", b'{\n "text": "a"\n}\n{\n "text": "b"\n}', "JSON"),
        ("x.txt", b"[hello]\n", "text"),
        ("x", b"question,answer\n1,2\n", "CSV"),
        ("x.jsonl", b"question,answer\n1,2\n", "CSV"),
        ("x.csv", b"question;answer\n1;2\n", "CSV"),
        ("x.dat", b"question\tanswer\n1\t2\n", "TSV"),
        ("x", b"some words\nmore of them, here\n", "text"),
    ],
)
@pytest.mark.parametrize("kind", ["", "gzip", "zstd"])
def test_containers_are_told_by_what_is_in_them(name: str, content: bytes, container: str, kind: str) -> None:
    report = look_at_bytes(packed(content, kind) if kind else content, name)
    assert report.is_sound
    assert report.recognised is not None
    assert (report.recognised.container, report.recognised.compression) == (container, kind or None)


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_bomb_is_refused_with_its_ratio(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compression, "RATIO_COUNTS_FROM_BYTES", 1 << 20)
    report = look_at_bytes(packed(b'{"text": "' + b"a" * (8 << 20) + b'"}', kind), "rows.jsonl")
    assert report.errors[0].code == "unpacks_too_large"
    assert "times their size" in report.errors[0].message


def test_a_line_of_many_megabytes_is_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROW_BYTES", 1000)
    good = b'{"text": "a"}\n'
    for name in ("x.jsonl", "x.csv"):
        content = (b"text\na\n" if name == "x.csv" else good) + b'"' + b"x" * 5000 + b"\n" + good
        codes = {error.code for error in look_at_bytes(content, name).errors}
        assert "row_too_long" in codes
    report = look_at_bytes(b'[\n{"text": "a"},\n{"text": "' + b"x" * (3 << 20) + b'"}]', "x.json")
    assert [(error.line, error.code) for error in report.errors] == [(3, "row_too_long")]


def packed(content: bytes, kind: str) -> bytes:
    if kind == "gzip":
        return gzip.compress(content, mtime=0)
    if kind == "zstd":
        half = len(content) // 2  # Two frames, as `zstd a b` writes them.
        return b"".join(zstandard.compress(part) for part in (content[:half], content[half:]))
    import pyarrow
    import pyarrow.parquet

    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([json.loads(line) for line in content.splitlines()]), file)
    return file.getvalue()


def look_at_bytes(content: bytes, name: str) -> DatasetReport:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload"
        path.write_bytes(content)
        return look_at(path, file_name=name)
