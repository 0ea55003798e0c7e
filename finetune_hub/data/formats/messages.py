"""Messages in all their variants, converted to one form, for chats, sharegpt, pairs and labelled answers.

    {"role": "user", "content": "…"}        OpenAI, transformers, TRL
    {"from": "human", "value": "…"}         sharegpt; function_call and observation are its tool calls and results

A tool call becomes `{"type": "function", "function": {"name": …, "arguments": {…}}}`. Its arguments are an object, not
JSON in a string: chat templates serialise them, and would quote a string again.
"""

from __future__ import annotations

from typing import Any, TypeGuard

import orjson

from finetune_hub.data.defects import Path, RowProblem, json_type
from finetune_hub.data.rows import ROLES, Message

_ROLE_SPELLINGS = {
    "human": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bard": "assistant",
    "bing": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "developer": "system",
    "function": "tool",
    "function_response": "tool",
    "observation": "tool",
    "tool_response": "tool",
    "ipython": "tool",
}
_PLAIN_ROLES = frozenset(ROLES)
_CALL_ROLES = {"function_call", "tool_call"}
_ROLE_KEYS, _CONTENT_KEYS = ("role", "from", "speaker"), ("content", "value", "text")
_LEARN_KEYS = ("train", "loss")  # Axolotl's and ms-swift's names for a weight of 0 or 1.
_KNOWN_KEYS = {*_ROLE_KEYS, *_CONTENT_KEYS, *_LEARN_KEYS, "weight", "tool_calls", "function_call"}


def read_messages(value: Any, path: Path, problems: list[RowProblem]) -> list[Message]:
    """Read messages from a list or its JSON text; add problems with their path."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _json_or_text(value)
    if not isinstance(value, list):
        problems.append(
            RowProblem(
                "no_messages",
                f"`{path[-1]}` is a {json_type(value)}, not a list",
                'Write [{"role": …, "content": …}, …].',
                path=path,
            )
        )
        return []
    if is_plain(value):
        return value
    messages = [_read_turn(turn, (*path, index), index + 1, problems) for index, turn in enumerate(value)]
    return [message for message in messages if message is not None]


def is_plain(value: Any) -> TypeGuard[list[Message]]:
    """Return whether these are messages in our own form with only a role and text, as nearly all are."""
    if type(value) is not list or not value:
        return False
    for turn in value:
        if type(turn) is not dict or len(turn) != 2:
            return False
        if (
            type(turn.get("content")) is not str
            or type(turn.get("role")) is not str
            or turn["role"] not in _PLAIN_ROLES
        ):
            return False
    return True


def read_answer(value: Any, path: Path, problems: list[RowProblem]) -> list[Message]:
    """Read an answer: text, one message or several."""
    if isinstance(value, str) and value.lstrip()[:2] != "[{":
        return [{"role": "assistant", "content": value}]
    return read_messages([value] if isinstance(value, dict) else value, path, problems)


def read_prompt(value: Any, path: Path, problems: list[RowProblem], system: str = "") -> list[Message]:
    """Read a prompt: text or messages, after an optional system text."""
    if isinstance(value, str) and value.lstrip()[:2] != "[{":
        value = [{"role": "user", "content": value}]
    messages = read_messages(value, path, problems)
    return [{"role": "system", "content": system}, *messages] if system else messages


def read_tools(value: Any, problems: list[RowProblem]) -> list[Any] | None:
    """Read tool schemas from a list or its JSON text, each in OpenAI's envelope."""
    if isinstance(value, str):
        value = _json_or_text(value) if value.strip() else None
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(tool, dict) for tool in value):
        problems.append(
            RowProblem(
                "invalid_tools",
                f"`tools` is a {json_type(value)}, not a list of objects",
                "List the JSON schemas of the tools.",
                path=("tools",),
            )
        )
        return None
    bare = [_without_nulls(tool) for tool in value]
    return [{"type": "function", "function": tool} if "function" not in tool else tool for tool in bare] or None


def _read_turn(turn: Any, path: Path, number: int, problems: list[RowProblem]) -> Message | None:
    found: list[RowProblem] = []

    def problem(code: str, message: str, remedy: str, key: str | None = None) -> None:
        found.append(RowProblem(code, f"message {number} {message}", remedy, path=(*path, key) if key else path))

    if not isinstance(turn, dict):
        problem("invalid_message", f"is a {json_type(turn)}, not an object", 'Write {"role": …, "content": …}.')
        problems += found
        return None
    role_key = next((key for key in _ROLE_KEYS if turn.get(key) is not None), None)
    content_key = next((key for key in _CONTENT_KEYS if turn.get(key) is not None), None)
    spelled = turn.get(role_key or "")
    role = _ROLE_SPELLINGS.get(spelled, spelled) if isinstance(spelled, str) else spelled
    message: Message = {"role": role}
    calls = turn.get("tool_calls")
    if calls is None and isinstance(turn.get("function_call"), dict):
        calls = [turn["function_call"]]
    content = turn.get(content_key or "")
    if isinstance(spelled, str) and spelled in _CALL_ROLES:
        message["role"], calls, content = "assistant", _json_or_text(content), ""
        calls = [calls] if isinstance(calls, dict) else calls
    elif role not in ROLES:
        what = "has no role" if role is None else f"has the unknown role {str(role)[:40]!r}"
        problem("unknown_role", what, f"Use one of {', '.join(ROLES)}.", role_key)
    content = _read_content(content, problem, content_key, may_be_absent=bool(calls))
    calls = _read_calls(calls, problem) if calls else None
    if content is not None:
        message["content"] = content
    message |= {key: value for key, value in turn.items() if key not in _KNOWN_KEYS and value is not None}
    if calls:
        message["tool_calls"] = calls
    weight = _read_weight(turn, problem)
    if weight is not None:
        message["weight"] = weight
    problems += found
    return message


def _read_content(content: Any, problem: Any, key: str | None, *, may_be_absent: bool) -> str | None:
    if isinstance(content, str):
        return content
    if content is None:
        if not may_be_absent:
            problem("invalid_content", "has no content", "Add text.")
        return None
    if isinstance(content, list) and all(isinstance(part, dict) for part in content):
        kinds = {str(part.get("type")) for part in content} - {"text"}
        if not kinds and all(isinstance(part.get("text"), str) for part in content):
            return "".join(part["text"] for part in content)
        if kinds:
            problem("invalid_content", f"has parts of type {min(kinds)[:40]!r}", "Use only text.", key)
            return None
    problem("invalid_content", f"has a {json_type(content)} as its content", "Use a single string.", key)
    return None


def _read_calls(calls: Any, problem: Any) -> list[Any] | None:
    """Return the calls in OpenAI's envelope, with arguments as objects."""
    calls = _json_or_text(calls) if isinstance(calls, str) else calls
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        problem(
            "invalid_tool_calls",
            "has tool calls that are not a list of objects",
            "List the calls as objects.",
            "tool_calls",
        )
        return None
    read = []
    for call in calls:
        envelope = _without_nulls(call) if isinstance(call.get("function"), dict) else {"function": call}
        function = _without_nulls(envelope["function"])
        arguments = function.get("arguments", function.pop("parameters", {}))
        arguments = _json_or_text(arguments or "{}") if isinstance(arguments, str) else arguments
        if not isinstance(function.get("name"), str) or not isinstance(arguments, dict):
            problem(
                "invalid_tool_calls",
                "has a tool call without a `name` and `arguments` that are a JSON object",
                'Write {"name": …, "arguments": {…}}.',
                "tool_calls" if "tool_calls" not in envelope else None,
            )
            return None
        read.append({"type": "function"} | envelope | {"function": function | {"arguments": arguments}})
    return read


def _read_weight(turn: dict[str, Any], problem: Any) -> int | None:
    learn = next((turn[key] for key in _LEARN_KEYS if isinstance(turn.get(key), bool)), None)
    weight = turn.get("weight")
    if weight is None:
        return None if learn is not False else 0
    if isinstance(weight, bool) or weight not in (0, 1):
        problem(
            "invalid_weight",
            "has a weight other than 0 and 1",
            "Use 1 to train on the turn, 0 to leave it out of the loss.",
            "weight",
        )
    return int(weight) if weight in (0, 1) else None


def _without_nulls(value: dict[str, Any]) -> dict[str, Any]:
    """Return the object without null values: Parquet gives every object the keys of all objects."""
    return {key: part for key, part in value.items() if part is not None}


def _json_or_text(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return orjson.loads(value)
    except orjson.JSONDecodeError:
        return value
