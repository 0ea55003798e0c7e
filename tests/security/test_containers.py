"""A file that is small outside and large inside is refused by its headers, or read in little memory."""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from finetune_hub.artifacts.safetensors_header import BadHeader, read_tensors
from finetune_hub.data.readers import parquet, parquet_sizes
from finetune_hub.data.readers.parquet import read_parquet
from finetune_hub.data.readers.records import Record
from finetune_hub.data.report import DatasetReport, look_at

MIB = 1 << 20
LOOK = """
import json, resource, sys
from pathlib import Path
import pyarrow.parquet
from finetune_hub.data.report import look_at
def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
before = peak()
report = look_at(Path(sys.argv[1]), max_defects=3)
print(json.dumps({"mib": peak() - before, "report": report.model_dump(mode="json", exclude={"first_rows"})}))
"""


def look_in_a_process(path: Path) -> tuple[int, DatasetReport]:
    """MiB that a look at the file takes, and what it finds."""
    done = subprocess.run([sys.executable, "-c", LOOK, path], capture_output=True, check=True, timeout=120)
    found = json.loads(done.stdout)
    return found["mib"], DatasetReport.model_validate(found["report"])


def shared_text(rows: int, size_bytes: int) -> Any:
    """So many references to one long text."""
    return pa.DictionaryArray.from_arrays(pa.array([0] * rows, pa.int32()), pa.array(["x" * size_bytes]))


def one_text_in_all_rows() -> Any:
    return pa.table({"text": shared_text(5000, MIB)})


def one_text_in_all_turns_of_a_row() -> Any:
    turns = pa.StructArray.from_arrays([shared_text(5000, MIB), pa.array(["user"] * 5000)], names=["content", "role"])
    return pa.table({"messages": pa.ListArray.from_arrays(pa.array([0, 5000], pa.int32()), turns)})


def nothing_many_times() -> Any:
    nulls = pa.nulls(12_000_000, pa.int8())
    return pa.table({"text": pa.array(["a"]), "n": pa.ListArray.from_arrays([0, len(nulls)], nulls)})


def zeros() -> Any:
    return pa.table({"text": pa.array([b"\0" * (80 * MIB)])})


BOMBS: list[tuple[Callable[[], Any], dict[str, Any], str]] = [
    (one_text_in_all_rows, {"use_dictionary": True}, "unpacks_too_large"),
    (one_text_in_all_turns_of_a_row, {"use_dictionary": True}, "unpacks_too_large"),
    (nothing_many_times, {}, "unpacks_too_large"),
    (zeros, {"use_dictionary": False}, "unpacks_too_large"),
]


@pytest.mark.parametrize(("made", "options", "code"), BOMBS, ids=lambda part: getattr(part, "__name__", ""))
def test_a_parquet_bomb(made: Callable[[], Any], options: dict[str, Any], code: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(made(), path, compression="zstd", store_schema=False, **options)
    assert path.stat().st_size < 20_000
    mib, report = look_in_a_process(path)
    assert report.errors[0].code == code
    assert report.errors[0].remedy
    assert mib < 250, "a look takes little memory"


def test_rows_that_share_a_text_are_still_read(tmp_path: Path) -> None:
    table = pa.table(
        {"text": pa.DictionaryArray.from_arrays(pa.array([0, 1] * 300, pa.int32()), pa.array(["a" * 9999, "b"]))}
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    report = look_at(tmp_path / "rows.parquet")
    assert (report.row_count, report.error_count) == (600, 0)


def thrift_schema(depth: int) -> bytes:
    """A footer whose columns are nested so deep: version, then a list of `SchemaElement` (name, num_children)."""
    element = b"\x48\x01a\x15\x02\x00"
    count, size = b"", depth
    while size > 127:
        count, size = count + bytes([size & 127 | 128]), size >> 7
    return b"\x15\x02\x19\xfc" + count + bytes([size]) + element * depth + b"\x16\x00\x00"


@pytest.mark.parametrize(
    ("footer", "code"),
    [
        (thrift_schema(1000), "unpacks_too_large"),
        (thrift_schema(200_000), "unpacks_too_large"),
        (b"\xff" * 1000, "invalid_parquet"),
        (b"\x15" * 1000, "invalid_parquet"),
        (b"\x19\xfc" + b"\xff" * 9 + b"\x01", "invalid_parquet"),
        (b"", "invalid_parquet"),
    ],
    ids=["deep", "wide", "long numbers", "cut short", "long list", "empty"],
)
def test_a_footer_that_is_none(footer: bytes, code: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"PAR1" + footer + len(footer).to_bytes(4, "little") + b"PAR1")
    assert look_at(path).errors[0].code == code


def test_a_footer_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    with path.open("wb") as file:  # Sparse.
        file.write(b"PAR1")
        file.seek(1 << 30)
        file.write(((1 << 30) - 100).to_bytes(4, "little") + b"PAR1")
    assert look_at(path).errors[0].code == "unpacks_too_large"


def test_a_page_that_hides_its_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, table = tmp_path / "rows.parquet", pa.table({"text": ["a" * 1000] * 100})
    pq.write_table(table, path, use_dictionary=False, column_encoding={"text": "DELTA_BYTE_ARRAY"})
    assert "DELTA_BYTE_ARRAY" in look_at(path).errors[0].message
    pq.write_table(table, path)
    monkeypatch.setattr(parquet_sizes, "MAX_PAGE_BYTES", 500)
    assert "a page of `text` has" in look_at(path).errors[0].message


def test_a_row_group_whose_rows_cannot_be_told_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet_sizes, "MAX_GROUP_VALUES", 100)
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.table({"messages": [[1] * 101]}), path)
    assert "a row group has 102 values" in look_at(path).errors[0].message
    pq.write_table(pa.table({"fixed": pa.array([b"x" * 65], pa.binary(65))}), path)
    assert "each value of `fixed` has 65 bytes" in look_at(path).errors[0].message


def test_a_packed_parquet_file_is_unpacked_up_to_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = io.BytesIO()
    pq.write_table(pa.table({"text": ["a"]}), raw)
    path = tmp_path / "rows.parquet.gz"
    path.write_bytes(gzip.compress(raw.getvalue()))
    assert look_at(path).row_count == 1
    monkeypatch.setattr(parquet, "MAX_UNPACKED_FILE_BYTES", 10)
    assert look_at(path).errors[0].code == "unpacks_too_large"


def test_parquet_rows_are_what_pyarrow_makes_of_them(tmp_path: Path) -> None:
    kinds = pa.schema(
        [
            ("messages", pa.list_(pa.struct([("role", pa.string()), ("calls", pa.list_(pa.string()))]))),
            ("map", pa.map_(pa.string(), pa.int32())),
            ("deep", pa.struct([("x", pa.struct([("y", pa.list_(pa.large_string()))]))])),
            ("number", pa.float64()),
            ("bytes", pa.binary()),
            ("nothing", pa.null()),
        ]
    )
    rows = [
        {
            "messages": None if i % 7 == 0 else [{"role": f"r{i % 5}", "calls": [None, "c"]}, None][: i % 3],
            "map": [("a", i), ("b", None)] if i % 4 else None,
            "deep": {"x": {"y": ["a", None, str(i)]}} if i % 3 else None,
            "number": i / 3 if i % 2 else None,
            "bytes": b"xx",
            "nothing": None,
        }
        for i in range(700)
    ]
    table, path = pa.Table.from_pylist(rows, schema=kinds), tmp_path / "rows.parquet"
    ways: list[dict[str, Any]] = [{}, {"use_dictionary": False}, {"row_group_size": 50, "data_page_version": "2.0"}]
    for way in [*ways, {"data_page_size": 100, "compression": "gzip"}]:
        pq.write_table(table, path, **way)
        assert [found.value for found in read_parquet(path) if isinstance(found, Record)] == table.to_pylist()


@pytest.mark.parametrize("packed", [gzip.compress, zstandard.ZstdCompressor(level=19).compress])
def test_a_packed_text_bomb(packed: Callable[[bytes], bytes], tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl.gz"
    path.write_bytes(packed(b'{"text": "' + b"x" * (100 * MIB)))
    mib, report = look_in_a_process(path)
    assert report.errors[-1].code == "unpacks_too_large"
    assert mib < 150


def test_an_archive_is_not_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "rows.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../rows.jsonl", b"0" * (50 * MIB))
    assert look_at(path).errors[0].code == "unknown_compression"


F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
BAD_HEADERS: dict[str, tuple[Any, int, str]] = {
    "more than the file": ({"a": F32 | {"data_offsets": [0, 1 << 40], "shape": [1 << 38]}}, 16, "instead of"),
    "less than the shape": ({"a": F32 | {"shape": [1 << 31, 1 << 31]}}, 16, "does not match its shape"),
    "overlapping": ({"a": F32, "b": F32 | {"data_offsets": [8, 24]}}, 24, "overlap"),
    "twice the same bytes": ({"a": F32, "b": F32}, 16, "overlap"),
    "a gap": ({"a": F32, "b": F32 | {"data_offsets": [20, 36]}}, 36, "bytes between"),
    "backwards": ({"a": F32 | {"data_offsets": [16, 0]}}, 16, "does not match"),
    "below zero": ({"a": F32 | {"data_offsets": [-16, 0]}}, 16, "not valid"),
    "numbers of no size": ({"a": F32 | {"shape": [1e400]}}, 16, "not valid"),
    "many dimensions": ({"a": F32 | {"shape": [1] * 100_000}}, 16, "not valid"),
    "no such dtype": ({"a": F32 | {"dtype": "F99"}}, 16, "does not describe"),
    "no offsets": ({"a": {"dtype": "F32", "shape": [4]}}, 16, "does not describe"),
    "no object": ({"a": 7}, 0, "does not describe"),
    "a list": ([], 0, "not a JSON object"),
}


def write_safetensors(path: Path, header: bytes, data_bytes: int, *, says: int | None = None) -> Path:
    path.write_bytes((len(header) if says is None else says).to_bytes(8, "little") + header + bytes(data_bytes))
    return path


@pytest.mark.parametrize(("header", "data_bytes", "why"), BAD_HEADERS.values(), ids=BAD_HEADERS)
def test_a_safetensors_header_that_does_not_fit(header: Any, data_bytes: int, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadHeader, match=why):
        read_tensors(write_safetensors(tmp_path / "m.safetensors", json.dumps(header).encode(), data_bytes))


@pytest.mark.parametrize(
    ("header", "says", "why"),
    [
        (b"{}", 1 << 63, "longer than the file"),
        (b"{}", 100, "longer than the file"),
        (b"[" * 100_000, None, "is not JSON"),
        (b"{" + b"9" * 10_000, None, "is not JSON"),
        (b'{"a": ' + b"9" * 10_000 + b"}", None, "is not JSON"),
        (b"\xff", None, "is not JSON"),
    ],
    ids=["length", "short", "deep", "broken", "digits", "not UTF-8"],
)
def test_a_safetensors_header_that_is_none(header: bytes, says: int | None, why: str, tmp_path: Path) -> None:
    with pytest.raises(BadHeader, match=why):
        read_tensors(write_safetensors(tmp_path / "m.safetensors", header, 0, says=says))


def test_a_safetensors_header_of_a_gigabyte_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    with path.open("wb") as file:  # Sparse.
        file.write((1 << 30).to_bytes(8, "little"))
        file.truncate((1 << 30) + 8)
    with pytest.raises(BadHeader, match="more than"):
        read_tensors(path)


def test_a_whole_safetensors_file(tmp_path: Path) -> None:
    header = {
        "__metadata__": {"format": "pt"},
        "b": F32 | {"data_offsets": [16, 32]},
        "a": F32,
        "empty": F32 | {"shape": [0], "data_offsets": [32, 32]},
    }
    path = write_safetensors(tmp_path / "m.safetensors", json.dumps(header).encode(), 32)
    assert sorted(read_tensors(path)) == ["a", "b", "empty"]
