"""Preference pairs (a better and a worse answer) and answers labelled good or bad (KTO), in four variants each.

TRL        prompt, chosen, rejected; the prompt is optional if both answers start with it
OpenAI     input, preferred_output, non_preferred_output
sharegpt   conversations, chosen, rejected
alpaca     instruction, input, chosen, rejected
"""

from __future__ import annotations

import re
from typing import Any

from finetune_hub.data.defects import RowProblem, json_type
from finetune_hub.data.formats.chat import CONVERSATION_KEYS, conversation_at
from finetune_hub.data.formats.format import Document, first_of, optional_text, quoted, raise_any
from finetune_hub.data.formats.instruction import instruction_prompt
from finetune_hub.data.formats.messages import read_answer, read_messages, read_prompt, read_tools
from finetune_hub.data.rows import LabelledRow, Message, PreferenceRow

_LEARNED = "fine-tuning learns the chosen answer, DPO both"
_PROMPTS = ("prompt", "question", "query", "input")
_LABELS = ("label", "kto_tag")
_TURN_MARK = re.compile(r"\n\n(Human|Assistant): ?")  # Anthropic's HH: "\n\nHuman: …\n\nAssistant: …".


class OpenAiPreference:
    name = "openai_preference"
    title = "Preference pairs (OpenAI)"

    def looks(self, row: Document) -> str | None:
        if not isinstance(row.get("input"), dict) or "preferred_output" not in row:
            return None
        return f"it has {quoted('input', 'preferred_output', 'non_preferred_output')}; {_LEARNED}"

    def convert(self, row: Document) -> PreferenceRow:
        problems: list[RowProblem] = []
        asked = row.get("input") if isinstance(row.get("input"), dict) else {}
        assert isinstance(asked, dict)
        prompt = read_messages(asked.get("messages"), ("input", "messages"), problems)
        return _pair(row, prompt, "preferred_output", "non_preferred_output", problems, asked.get("tools"))


class Preference:
    name = "preference"
    title = "Preference pairs"

    def looks(self, row: Document) -> str | None:
        if "chosen" not in row or "rejected" not in row:
            return None
        return f"it has {quoted('chosen', 'rejected')}; {_LEARNED}"

    def convert(self, row: Document) -> PreferenceRow:
        problems: list[RowProblem] = []
        if _prompt_name(row):
            prompt = prompt_of(row, problems)
            return _pair(row, prompt, "chosen", "rejected", problems, row.get("tools"))
        return _parted(row, problems)


class Labelled:
    name = "kto"
    title = "Labelled answers (KTO)"

    def looks(self, row: Document) -> str | None:
        name = first_of(row, *_LABELS)
        if name is None or not _prompt_name(row):
            return None
        has_answer = "completion" in row or first_of(row, *CONVERSATION_KEYS, "output", "response")
        if not has_answer or _label(row[name]) is None:
            return None
        return f"it has an answer with a `{name}`; fine-tuning learns the good answers, KTO all"

    def convert(self, row: Document) -> LabelledRow:
        problems: list[RowProblem] = []
        name = first_of(row, *_LABELS) or "label"
        if _label(row.get(name)) is None:
            problems.append(
                RowProblem("invalid_label", f"`{name}` is neither true nor false", "Write true or false.", path=(name,))
            )
        conversation = first_of(row, *CONVERSATION_KEYS)
        answer = first_of(row, "completion", "output", "response")
        if conversation and not answer:
            messages = conversation_at(row, conversation, problems)
            last = len(messages) - 1 if messages and messages[-1]["role"] == "assistant" else len(messages)
            prompt, completion = messages[:last], messages[last:]
        else:
            prompt = prompt_of(row, problems)
            completion = read_answer(row.get(answer or "completion"), (answer or "completion",), problems)
        tools = read_tools(row.get("tools"), problems)
        _check_answer(completion, answer or conversation or "completion", problems)
        raise_any(problems)
        return LabelledRow(prompt, completion, bool(_label(row[name])), tools)


def prompt_of(row: Document, problems: list[RowProblem]) -> list[Message]:
    """Return the prompt of the answers, wherever it is in the row."""
    name = _prompt_name(row) or "prompt"
    if name in CONVERSATION_KEYS:
        return conversation_at(row, name, problems)
    if name == "instruction":
        return instruction_prompt(row, problems)
    return read_prompt(row[name], (name,), problems, optional_text(row, "system", problems))


def _prompt_name(row: Document) -> str | None:
    return first_of(row, "instruction", *_PROMPTS, *CONVERSATION_KEYS)


def _pair(
    row: Document, prompt: list[Message], chosen: str, rejected: str, problems: list[RowProblem], tools: Any
) -> PreferenceRow:
    better = read_answer(row.get(chosen), (chosen,), problems)
    worse = read_answer(row.get(rejected), (rejected,), problems)
    if better[: len(prompt)] == prompt == worse[: len(prompt)]:  # Both repeat it, as in UltraFeedback.
        better, worse = better[len(prompt) :], worse[len(prompt) :]
    _check_answer(better, chosen, problems)
    _check_answer(worse, rejected, problems)
    _check_difference(better, worse, chosen, problems)
    read = read_tools(tools, problems)
    raise_any(problems)
    return PreferenceRow(prompt, better, worse, read)


def _parted(row: Document, problems: list[RowProblem]) -> PreferenceRow:
    """Read a pair whose prompt is the common start of both answers."""
    chosen, rejected = (_whole(row, name, problems) for name in ("chosen", "rejected"))
    shared = 0
    while shared < min(len(chosen), len(rejected)) and chosen[shared] == rejected[shared]:
        shared += 1
    for name, messages in (("chosen", chosen), ("rejected", rejected)):
        if not problems:
            _check_answer(messages[shared:], name, problems)
    if not problems and not shared:
        problems.append(
            RowProblem("no_prompt", "the answers share no prompt", "Add a `prompt`, or start both with the same turns.")
        )
    tools = read_tools(row.get("tools"), problems)
    raise_any(problems)
    return PreferenceRow(chosen[:shared], chosen[shared:], rejected[shared:], tools)


def _whole(row: Document, name: str, problems: list[RowProblem]) -> list[Message]:
    value = row.get(name)
    if isinstance(value, str) and _TURN_MARK.match(value):
        parts = _TURN_MARK.split(value)[1:]
        roles = {"Human": "user", "Assistant": "assistant"}
        return [{"role": roles[who], "content": text} for who, text in zip(parts[::2], parts[1::2], strict=True)]
    if isinstance(value, str):
        problems.append(
            RowProblem("no_prompt", f"`{name}` is text without its prompt", "Add a `prompt` to the row.", path=(name,))
        )
        return []
    return read_messages(value, (name,), problems)


def _check_answer(messages: list[Message], name: str, problems: list[RowProblem]) -> None:
    if problems:
        return
    if not any(message["role"] == "assistant" for message in messages):
        problems.append(
            RowProblem(
                "no_assistant_turn", f"`{name}` has no assistant turn", "Add the answer, with its role.", path=(name,)
            )
        )


def _check_difference(chosen: list[Message], rejected: list[Message], name: str, problems: list[RowProblem]) -> None:
    if not problems and chosen == rejected:
        problems.append(
            RowProblem(
                "same_answers", "both answers are the same", "Delete the row: it has no preference.", path=(name,)
            )
        )


def _label(value: Any) -> bool | None:
    """Return true or false, also as written in tables; None if it is neither."""
    if isinstance(value, bool):
        return value
    words = {"true": True, "1": True, "false": False, "0": False}
    return words.get(str(value).strip().lower()) if json_type(value) in {"string", "number"} else None
