"""Chat rows: JSONL files in which each line is one conversation, and what can be wrong with them.

    {"messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}]}

A message may carry `name`, `tool_calls` and, on an assistant's turn, `weight`: 0 keeps the turn out of the loss.
A row may carry `tools`. Upload, API, CLI and trainer all read files through this module, so a file that one of them
accepts is accepted by all. Files are read as a stream: their size does not matter, that of one row does.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pydantic import BaseModel, ConfigDict, Field

from finetune_hub.spec.refusal import Refusal

ROLES = ("system", "user", "assistant", "tool")
MAX_ROW_BYTES = 16 << 20
FIRST_ROWS = 5
_NAMED_ERRORS = 3
_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")

Message = dict[str, Any]


class RowError(BaseModel):
    """One defect: where it is, what it is, and what to do about it."""

    model_config = ConfigDict(frozen=True)

    line: int | None = Field(
        description="Line of the file, counted from 1, blank lines included; null: the whole file."
    )
    code: str
    message: str = Field(description="A clause without a full stop: `no assistant turn`.")
    remedy: str = Field(description="A whole sentence.")

    def __str__(self) -> str:
        where = "The file" if self.line is None else f"Row {self.line}:"
        return f"{where} {self.message}. {self.remedy}"


class InvalidDataset(Exception):
    """The dataset has rows that cannot be trained on."""

    def __init__(self, file_name: str, errors: list[RowError], error_count: int | None = None) -> None:
        self.file_name = file_name
        self.errors = errors
        self.error_count = len(errors) if error_count is None else error_count
        named = " ".join(str(error) for error in errors[:_NAMED_ERRORS])
        more = self.error_count - min(len(errors), _NAMED_ERRORS)
        super().__init__(f"{file_name}: {named}" + (f" And {more} more." if more else ""))


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation that passed every check."""

    line: int
    messages: list[Message]
    tools: list[Any] | None = None


class DatasetReport(BaseModel):
    """What a look at the whole file found."""

    file_name: str
    size_bytes: int
    sha256: str
    row_count: int = Field(description="Lines that are not blank, sound or not.")
    message_count: int = Field(description="In sound rows.")
    assistant_turn_count: int = Field(description="Assistant turns that count in the loss, in sound rows.")
    error_count: int = Field(description="All defects; `errors` holds only the first of them.")
    errors: list[RowError]
    first_rows: list[dict[str, Any]]

    @property
    def is_sound(self) -> bool:
        """Whether the file can be trained on as it is."""
        return self.error_count == 0

    def raise_for_errors(self) -> None:
        """Raises:
        InvalidDataset: the file has a defect.
        """
        if not self.is_sound:
            raise InvalidDataset(self.file_name, self.errors, self.error_count)

    def refusal(self) -> Refusal:
        """How the service, and the command line ahead of it, refuses the file: its first defect, and how many more."""
        first, more = self.errors[0], self.error_count - 1
        place = f"{self.file_name}, line {first.line}" if first.line else self.file_name
        rest = f" ({more} more {'error' if more == 1 else 'errors'}.)" if more else ""
        return Refusal(
            "invalid_dataset",
            f"{place}: {first.message}.{rest}",
            first.remedy,
            field="file",
            details=[error.model_dump() for error in self.errors],
        )


def check_chat_file(path: Path, *, max_errors: int = 100, file_name: str | None = None) -> DatasetReport:
    """Read the whole file and report its rows and defects.

    Args:
        max_errors: Only so many defects are kept; all are counted.
        file_name: How messages call the file, when it lies under another name (an upload's temporary file).
    """
    row_count = message_count = assistant_turn_count = error_count = 0
    errors: list[RowError] = []
    first_rows: list[dict[str, Any]] = []
    for found in _scan(path):
        row_count += not (isinstance(found, RowError) and found.line is None)
        if isinstance(found, RowError):
            error_count += 1
            if len(errors) < max_errors:
                errors.append(found)
            continue
        message_count += len(found.messages)
        assistant_turn_count += sum(map(is_supervised, found.messages))
        if len(first_rows) < FIRST_ROWS:
            first_rows.append({"messages": found.messages} | ({"tools": found.tools} if found.tools else {}))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return DatasetReport(
        file_name=file_name or path.name,
        size_bytes=path.stat().st_size,
        sha256=sha256,
        row_count=row_count,
        message_count=message_count,
        assistant_turn_count=assistant_turn_count,
        error_count=error_count,
        errors=errors,
        first_rows=first_rows,
    )


def read_chat_rows(path: Path) -> Iterator[ChatRow]:
    """The rows of a file, one at a time.

    Raises:
        InvalidDataset: at the first defect.
    """
    for found in _scan(path):
        if isinstance(found, RowError):
            raise InvalidDataset(path.name, [found])
        yield found


def is_supervised(message: Message) -> bool:
    """Whether the message is an assistant's turn that counts in the loss."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _scan(path: Path) -> Iterator[ChatRow | RowError]:
    """Every row that is not blank, or its defect. A file that is no JSONL at all ends after one defect of its own."""
    is_empty = True
    with path.open("rb") as file:
        for line, raw in _numbered_lines(file):
            if is_empty and (defect := _file_defect(raw)):
                yield defect
                return
            is_empty = False
            yield _row_of(line, raw)
    if is_empty:
        yield _file_error("empty_file", "has no rows", 'Put one {"messages": […]} object on each line.')


def _numbered_lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers; a line beyond the limit is cut just above it."""
    line = 0
    while raw := file.readline(MAX_ROW_BYTES + 1):
        line += 1
        rest = raw
        while len(rest) > MAX_ROW_BYTES and not rest.endswith(b"\n"):
            rest = file.readline(MAX_ROW_BYTES + 1)
        if line == 1:
            raw = raw.removeprefix(_UTF8_MARK)
        if raw.strip():
            yield line, raw


def _file_defect(first: bytes) -> RowError | None:
    """What the first line that is not blank tells about the whole file."""
    start = first.strip()
    if start.startswith(_UTF16_MARKS):
        return _file_error("not_utf8", "is UTF-16, not UTF-8", "Save it again as UTF-8.")
    if b"\0" in first:
        return _not_jsonl("is binary, not JSONL", "Export it as JSONL: one JSON object on each line.")
    if start.startswith(b"["):
        return _not_jsonl("is one JSON array, not JSONL", "Convert it with `jq -c '.[]' FILE > FILE.jsonl`.")
    if start == b"{":
        return _not_jsonl("spreads one JSON object over many lines", "Convert it with `jq -c . FILE > FILE.jsonl`.")
    if not start.startswith((b"{", b'"')) and len(start) <= MAX_ROW_BYTES and not _is_json(start):
        return _not_jsonl("looks like CSV or plain text, not JSONL", "Put one JSON object on each line.")
    return None


def _row_of(line: int, raw: bytes) -> ChatRow | RowError:
    def error(code: str, message: str, remedy: str) -> RowError:
        return RowError(line=line, code=code, message=message, remedy=remedy)

    if len(raw) > MAX_ROW_BYTES:
        return error(
            "row_too_long", f"longer than {MAX_ROW_BYTES >> 20} MiB", "Split the conversation into shorter rows."
        )
    try:
        text = raw.decode()
    except UnicodeDecodeError as broken:
        return error("not_utf8", f"not UTF-8 at byte {broken.start + 1}", "Save the file as UTF-8.")
    try:
        row = json.loads(text)
        json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return error("not_utf8", "half of a surrogate pair in a \\u escape", "Write the whole character.")
    except RecursionError:
        return error("not_json", "nested too deeply", "Put one flat JSON object on the line.")
    except ValueError as broken:
        why = (
            f"not JSON ({broken.msg}, column {broken.colno})"
            if isinstance(broken, json.JSONDecodeError)
            else "not JSON"
        )
        return error("not_json", why, "Put exactly one JSON object on the line.")
    if not isinstance(row, dict):
        return error("not_an_object", f"a JSON {_json_type(row)}, not an object", 'Write {"messages": […]}.')
    messages = row.get("messages")
    if not isinstance(messages, list):
        keys = ", ".join(sorted(row)[:6]) or "none"
        return error(
            "no_messages", f"no `messages` list (its keys: {keys})", 'Write {"messages": [{"role", "content"}, …]}.'
        )
    if not messages:
        return error("empty_messages", "`messages` is empty", "Add a user and an assistant turn, or delete the row.")
    for number, message in enumerate(messages, start=1):
        if defect := _message_defect(message):
            code, what, remedy = defect
            return error(code, f"message {number} {what}", remedy)
    if not any(map(is_supervised, messages)):
        if any(message["role"] == "assistant" for message in messages):
            return error("no_assistant_turn", "every assistant turn has weight 0", "Give one of them weight 1.")
        return error("no_assistant_turn", "no assistant turn", "Add the answer that the model should learn.")
    tools = row.get("tools")
    if tools is not None and not isinstance(tools, list):
        return error(
            "invalid_tools", f"`tools` is a {_json_type(tools)}, not a list", "List the JSON schemas of the tools."
        )
    return ChatRow(line, messages, tools or None)


def _message_defect(message: Any) -> tuple[str, str, str] | None:
    """Code, clause and remedy of the first defect of one message."""
    if not isinstance(message, dict):
        return "invalid_message", f"is a {_json_type(message)}, not an object", 'Write {"role": …, "content": …}.'
    role, content, calls = message.get("role"), message.get("content"), message.get("tool_calls")
    if role not in ROLES:
        what = "has no role" if role is None else f"has the unknown role {str(role)[:40]!r}"
        return "unknown_role", what, f"Use one of {', '.join(ROLES)}."
    if calls is not None and not (isinstance(calls, list) and all(isinstance(call, dict) for call in calls)):
        return "invalid_tool_calls", "has `tool_calls` that are no list of objects", "List the calls as objects."
    if content is None and not calls:
        return "invalid_content", "has no content", "Give it a text."
    if content is not None and not isinstance(content, str):
        return "invalid_content", f"has a {_json_type(content)} as its content", "Give it one string."
    weight = message.get("weight")
    if weight is not None and (isinstance(weight, bool) or weight not in (0, 1)):
        return (
            "invalid_weight",
            "has a weight other than 0 and 1",
            "Use 1 to learn the turn, 0 to leave it out of the loss.",
        )
    return None


def _file_error(code: str, message: str, remedy: str) -> RowError:
    return RowError(line=None, code=code, message=message, remedy=remedy)


def _not_jsonl(message: str, remedy: str) -> RowError:
    return _file_error("not_jsonl", message, remedy)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_type(value: Any) -> str:
    names = {
        type(None): "null",
        bool: "boolean",
        int: "number",
        float: "number",
        str: "string",
        list: "list",
        dict: "object",
    }
    return names[type(value)]
