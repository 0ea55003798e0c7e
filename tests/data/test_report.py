"""Every defect of a file is found with its line and column, its code and a way out; good rows are kept as ours."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_hub.data.defects import InvalidDataset
from finetune_hub.data.intake import read_rows
from finetune_hub.data.readers import records
from finetune_hub.data.report import look_at

GOOD = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}


def write(path: Path, *lines: object) -> Path:
    """Objects become JSON, bytes stay as they are."""
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
    return path


def chat(*messages: object, **extra: object) -> dict[str, object]:
    return {"messages": list(messages), **extra}


def test_a_sound_file_is_counted_kept_and_hashed(tmp_path: Path) -> None:
    muted = {"role": "assistant", "content": "no", "weight": 0}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    tool = {"type": "function", "function": {"name": "add"}}
    calling = {"role": "assistant", "tool_calls": [call]}
    rich = chat({"role": "system", "content": "s"}, GOOD["messages"][0], muted, calling, tools=[tool])
    path = write(tmp_path / "in.jsonl", GOOD, b"", b"   ", rich)

    report = look_at(path, keep_in=tmp_path)

    kept = tmp_path / "rows.jsonl"
    assert report.is_sound
    assert (report.row_count, report.kind) == (2, "chat")
    assert report.first_rows == [GOOD, rich]
    assert (report.size_bytes, report.sha256) == (kept.stat().st_size, hashlib.sha256(kept.read_bytes()).hexdigest())
    assert [json.loads(line) for line in kept.read_text().splitlines()] == [GOOD, rich]


def test_what_is_kept_is_kept_again_as_it_is(tmp_path: Path) -> None:
    first, second = tmp_path / "1", tmp_path / "2"
    first.mkdir()
    second.mkdir()
    loose = '{ "messages" : [{"role":"user","content":"\\u00e9"}, {"role": "assistant", "content": "4"}] }\r\n'
    (tmp_path / "x.jsonl").write_text(loose)
    once = look_at(tmp_path / "x.jsonl", keep_in=first)
    twice = look_at(first / "rows.jsonl", keep_in=second)
    assert once.sha256 == twice.sha256
    assert (first / "rows.jsonl").read_bytes() == (second / "rows.jsonl").read_bytes()


def test_rows_are_found_by_their_offsets(tmp_path: Path) -> None:
    rows = [
        chat({"role": "user", "content": "é" * number}, {"role": "assistant", "content": "4"}) for number in range(9)
    ]
    path = write(tmp_path / "in.jsonl", *(rows * 300))
    report = look_at(path, keep_in=tmp_path)
    kept = (tmp_path / "rows.jsonl").read_bytes()
    starts = [json.loads(kept[offset:].partition(b"\n")[0]) for offset in report.row_offsets]
    assert starts == [rows[0], rows[1000 % 9], rows[2000 % 9]]


@pytest.mark.parametrize(
    ("line", "code", "points_at", "words"),
    [
        (b'{"messages": [}', "invalid_jsonl_line", "}", "not JSON"),
        (b"[" * 100_000, "invalid_jsonl_line", "", "nested too deeply"),
        (b'"text"', "not_an_object", '"text"', "a JSON string"),
        ({"prompt": "a", "answer": "b"}, "no_messages", '{"prompt"', "answer, prompt"),
        (chat(), "empty_messages", "[]", "is empty"),
        (chat("hello"), "invalid_message", '"hello"', "message 1 is a string"),
        (chat({"role": "bot2", "content": "a"}), "unknown_role", '"bot2"', "message 1 has the unknown role 'bot2'"),
        (chat({"content": "a"}), "unknown_role", '{"content"', "has no role"),
        (chat(GOOD["messages"][0], {"role": "assistant", "content": 4}), "invalid_content", "4}", "message 2 has a "),
        (chat({"role": "assistant", "content": None}), "invalid_content", '{"role"', "has no content"),
        (chat({"role": "assistant", "content": "a", "weight": 0.5}), "invalid_weight", "0.5", "other than 0 and 1"),
        (chat({"role": "assistant", "content": "a", "tool_calls": "x"}), "invalid_tool_calls", '"x"', "not a list of"),
        (
            chat({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}),
            "invalid_tool_calls",
            '[{"function"',
            "a JSON object",
        ),
        (chat(GOOD["messages"][0]), "no_assistant_turn", '[{"role"', "no assistant turn"),
        (chat({"role": "assistant", "content": "a", "weight": 0}), "no_assistant_turn", '[{"role"', "weight 0"),
        (chat(*GOOD["messages"]) | {"tools": "x"}, "invalid_tools", '"x"', "is a string"),
        (b'{"messages": "\xff"}', "not_utf8", "\ufffd", "not UTF-8"),
        (b'{"messages": [{"role": "assistant", "content": "\\ud83d"}]}', "not_utf8", "\\ud83d", "surrogate"),
        (chat({"role": "assistant", "content": "a\0"}), "not_storable", "{", "NUL"),
        (chat({"role": "assistant", "content": [{"type": "image_url"}]}), "invalid_content", '[{"type"', "image_url"),
        (b'{"messages": [{"role": "assistant", "content": "a", "x": %s}]}' % (b"[" * 400 + b"]" * 400),
         "not_storable", "{", "nested too deeply"),
    ],
)  # fmt: skip
def test_each_defect_names_its_place(tmp_path: Path, line: object, code: str, points_at: str, words: str) -> None:
    path = write(tmp_path / "rows.jsonl", GOOD, b"", line, GOOD)
    report = look_at(path)

    assert [(error.line, error.code) for error in report.errors] == [(3, code)]
    text = path.read_text(errors="replace").splitlines()[2]
    column = report.errors[0].column
    assert (column and text[column - 1 :].startswith(points_at)) or not points_at
    assert words in report.errors[0].message
    assert str(report.errors[0]).startswith("Line 3")
    assert report.errors[0].remedy.endswith(".")
    assert (report.row_count, report.rejected_count) == (2, 1)
    with pytest.raises(InvalidDataset, match=r"rows\.jsonl: Line 3"):
        list(read_rows(tmp_path / "rows.jsonl"))


def test_a_row_with_an_escaped_backslash_holds_no_nul(tmp_path: Path) -> None:
    row = chat({"role": "assistant", "content": "\\u0000"})
    assert look_at(write(tmp_path / "rows.jsonl", row)).is_sound


def test_all_defects_of_a_row_are_told_at_once(tmp_path: Path) -> None:
    row = chat({"role": "bot2", "content": "a"}, {"role": "user"}, {"role": "assistant", "content": 4})
    report = look_at(write(tmp_path / "rows.jsonl", row))
    places = [(error.code, error.field) for error in report.errors]
    assert places == [
        ("unknown_role", "messages[0].role"),
        ("invalid_content", "messages[1]"),
        ("invalid_content", "messages[2].content"),
    ]
    assert (report.rejected_count, report.error_count) == (1, 3)


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty_file", "no rows"),
        (b"\n \n", "empty_file", "no rows"),
        (b"[]", "empty_file", "no rows"),
        (b"\x7fELF\0\n", "not_jsonl", "neither"),
        (b"hello\n", "not_jsonl", "neither JSON nor a table"),
        (b"PK\x03\x04" + b"\0" * 50, "unknown_compression", "zip archive"),
        ("\ufeff{}".encode("utf-16"), "not_utf8", "UTF-16"),
        (b'{"a": 1, "b": 2}\n', "unknown_format", "the columns `a`, `b`"),
    ],
)
def test_a_file_that_cannot_be_read_gets_one_error(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    report = look_at(path, file_name="upload.jsonl")

    assert [(error.line, error.code) for error in report.errors] == [(None, code)]
    assert words in report.errors[0].message
    with pytest.raises(InvalidDataset, match=r"upload\.jsonl: The file "):
        report.raise_for_errors()
    with pytest.raises(InvalidDataset):
        list(read_rows(path))


def test_errors_are_capped_but_counted(tmp_path: Path) -> None:
    report = look_at(write(tmp_path / "rows.jsonl", GOOD, *[{"messages": []}] * 7), max_defects=2)

    assert (len(report.errors), report.error_count, report.row_count) == (2, 7, 1)
    with pytest.raises(InvalidDataset, match="And 5 more"):
        report.raise_for_errors()


def test_an_overlong_row_is_refused_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "MAX_ROW_BYTES", 200)
    long = chat({"role": "assistant", "content": "a" * 1000})

    report = look_at(write(tmp_path / "rows.jsonl", GOOD, long, chat()))

    assert [(error.line, error.code) for error in report.errors] == [(2, "row_too_long"), (3, "empty_messages")]


def test_rejected_rows_are_set_aside_as_they_were(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", GOOD, b"{oops", chat(GOOD["messages"][0]))
    report = look_at(path, keep_in=tmp_path)
    aside = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [(row["line"], row["errors"][0]["code"]) for row in aside] == [
        (2, "invalid_jsonl_line"),
        (3, "no_assistant_turn"),
    ]
    assert aside[0]["row"] == "{oops"
    assert json.loads(aside[1]["row"]) == chat(GOOD["messages"][0])
    assert report.row_count == len((tmp_path / "rows.jsonl").read_text().splitlines()) == 1


def test_rows_of_two_kinds_do_not_mix(tmp_path: Path) -> None:
    turns = {"prompt": [{"role": "user", "content": "a"}], "completion": [{"role": "assistant", "content": "b"}]}
    report = look_at(write(tmp_path / "rows.jsonl", {"prompt": "a", "completion": "b"}, turns))
    assert [(error.line, error.code) for error in report.errors] == [(2, "mixed_rows")]


@pytest.mark.parametrize("indent", [None, 1])
def test_a_large_file_is_never_whole_in_memory(tmp_path: Path, indent: int | None) -> None:
    """40 MB as lines, or as one JSON array, checked in a fresh process within a few megabytes."""
    path = tmp_path / "large.json"
    row = chat({"role": "user", "content": "word " * 200}, {"role": "assistant", "content": "x"})
    text = json.dumps(row, indent=indent)
    rows = 40_000_000 // len(text)
    with path.open("w") as file:
        file.write("[\n" if indent else "")
        file.writelines(text + (",\n" if indent else "\n") for _ in range(rows))
        file.write(f"{text}\n]" if indent else "")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.data", "--check", str(path)], capture_output=True, text=True, check=True
    )
    found = json.loads(done.stdout)
    assert found["rows"] == rows + bool(indent)
    assert found["peak_bytes"] - found["before_bytes"] < 20_000_000
