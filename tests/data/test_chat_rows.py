"""Every defect of a chat file is found with its line, its code and a way out."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune_hub.data import chat_rows
from finetune_hub.data.chat_rows import InvalidDataset, check_chat_file, read_chat_rows

GOOD = {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}


def write(path: Path, *lines: object) -> Path:
    """Objects become JSON, bytes stay as they are."""
    path.write_bytes(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines) + b"\n")
    return path


def chat(*messages: object, **extra: object) -> dict[str, object]:
    return {"messages": list(messages), **extra}


def test_a_sound_file_is_counted_and_hashed(tmp_path: Path) -> None:
    muted = {"role": "assistant", "content": "no", "weight": 0}
    call = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "add", "arguments": {}}}]}
    rich = chat({"role": "system", "content": "s"}, GOOD["messages"][0], muted, call, tools=[{"name": "add"}])
    path = write(tmp_path / "rows.jsonl", GOOD, b"", b"   ", rich)

    report = check_chat_file(path)

    assert report.is_sound
    assert (report.row_count, report.message_count, report.assistant_turn_count) == (2, 6, 2)
    assert report.size_bytes == path.stat().st_size
    assert report.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert report.first_rows == [GOOD, rich]
    assert [row.line for row in read_chat_rows(path)] == [1, 4]


def test_a_byte_order_mark_is_tolerated(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", b"\xef\xbb\xbf" + json.dumps(GOOD).encode())
    assert check_chat_file(path).is_sound


@pytest.mark.parametrize(
    ("line", "code", "words"),
    [
        (b'{"messages": [}', "not_json", "column 15"),
        (b"[" * 100_000, "not_json", "nested too deeply"),
        (b'"text"', "not_an_object", "a JSON string"),
        ({"prompt": "a", "answer": "b"}, "no_messages", "answer, prompt"),
        (chat(), "empty_messages", "is empty"),
        (chat("hello"), "invalid_message", "message 1 is a string"),
        (chat({"role": "bot", "content": "a"}), "unknown_role", "message 1 has the unknown role 'bot'"),
        (chat({"content": "a"}), "unknown_role", "has no role"),
        (chat(GOOD["messages"][0], {"role": "assistant", "content": 4}), "invalid_content", "message 2 has a number"),
        (chat({"role": "assistant", "content": None}), "invalid_content", "has no content"),
        (chat({"role": "assistant", "content": "a", "weight": 0.5}), "invalid_weight", "other than 0 and 1"),
        (chat({"role": "assistant", "content": "a", "tool_calls": "x"}), "invalid_tool_calls", "no list of objects"),
        (chat(GOOD["messages"][0]), "no_assistant_turn", "no assistant turn"),
        (chat({"role": "assistant", "content": "a", "weight": 0}), "no_assistant_turn", "weight 0"),
        (chat(*GOOD["messages"], tools=None) | {"tools": "x"}, "invalid_tools", "is a string"),
        (b'{"messages": "\xff"}', "not_utf8", "byte 15"),
        (b'{"messages": [{"role": "assistant", "content": "\\ud83d"}]}', "not_utf8", "surrogate"),
    ],
)
def test_each_defect_names_its_row(tmp_path: Path, line: object, code: str, words: str) -> None:
    report = check_chat_file(write(tmp_path / "rows.jsonl", GOOD, b"", line, GOOD))

    assert [(error.line, error.code) for error in report.errors] == [(3, code)]
    assert words in report.errors[0].message
    assert str(report.errors[0]).startswith("Row 3: ")
    assert report.errors[0].remedy.endswith(".")
    assert report.row_count == 3
    with pytest.raises(InvalidDataset, match=r"rows\.jsonl: Row 3: "):
        list(read_chat_rows(tmp_path / "rows.jsonl"))


@pytest.mark.parametrize(
    ("content", "code", "words"),
    [
        (b"", "empty_file", "no rows"),
        (b"\n \n", "empty_file", "no rows"),
        (json.dumps([GOOD]).encode(), "not_jsonl", "one JSON array"),
        (json.dumps(GOOD, indent=1).encode(), "not_jsonl", "over many lines"),
        (b"question,answer\n1,2\n", "not_jsonl", "CSV"),
        (b"PAR1\0\0\0", "not_jsonl", "binary"),
        ("\ufeff{}".encode("utf-16"), "not_utf8", "UTF-16"),
    ],
)
def test_a_file_that_is_no_jsonl_gets_one_error(tmp_path: Path, content: bytes, code: str, words: str) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)

    report = check_chat_file(path, file_name="upload.csv")

    assert [(error.line, error.code) for error in report.errors] == [(None, code)]
    assert words in report.errors[0].message
    with pytest.raises(InvalidDataset, match=r"upload\.csv: The file "):
        report.raise_for_errors()


def test_errors_are_capped_but_counted(tmp_path: Path) -> None:
    report = check_chat_file(write(tmp_path / "rows.jsonl", GOOD, *[{}] * 7), max_errors=2)

    assert (len(report.errors), report.error_count, report.row_count) == (2, 7, 8)
    with pytest.raises(InvalidDataset, match="And 5 more"):
        report.raise_for_errors()


def test_an_overlong_row_is_refused_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chat_rows, "MAX_ROW_BYTES", 200)
    long = chat({"role": "assistant", "content": "a" * 1000})

    report = check_chat_file(write(tmp_path / "rows.jsonl", GOOD, long, chat()))

    assert [(error.line, error.code) for error in report.errors] == [(2, "row_too_long"), (3, "empty_messages")]
