"""Rows as the hub keeps them: whatever format a file had, each of its rows becomes one of these five kinds.

    chat        {"messages": […], "tools": […]}
    completion  {"prompt": "…", "completion": "…"}                raw text, without the chat template
    text        {"text": "…"}                                     raw text, every token of it learned
    preference  {"prompt": […], "chosen": […], "rejected": […]}   messages, one answer better than the other
    labelled    {"prompt": […], "completion": […], "label": true} messages, an answer that was good or bad

The hub's own spelling is one of the formats that it reads, so a kept file read again is the same file.
Supervised fine-tuning reads every kind: of a pair it learns the chosen answer, of labelled answers the good ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation; the assistant's turns are learned, but for those of weight 0."""

    messages: list[Message]
    tools: list[Any] | None = None

    def document(self) -> dict[str, Any]:
        return {"messages": self.messages} | _tools(self.tools)


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """Raw text in two parts; the second is learned."""

    prompt: str
    completion: str

    def document(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "completion": self.completion}


@dataclass(frozen=True, slots=True)
class TextRow:
    """Raw text; all of it is learned."""

    text: str

    def document(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """Two answers to one prompt, of which one is better."""

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    tools: list[Any] | None = None

    def document(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "chosen": self.chosen, "rejected": self.rejected} | _tools(self.tools)


@dataclass(frozen=True, slots=True)
class LabelledRow:
    """An answer to a prompt, and whether it was a good one."""

    prompt: list[Message]
    completion: list[Message]
    label: bool
    tools: list[Any] | None = None

    def document(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "completion": self.completion, "label": self.label} | _tools(self.tools)


Row = ChatRow | CompletionRow | TextRow | PreferenceRow | LabelledRow


def as_chat(row: ChatRow | PreferenceRow | LabelledRow) -> ChatRow:
    """The conversation that supervised fine-tuning learns from: of a pair, the chosen answer and nothing before it."""
    match row:
        case ChatRow():
            return row
        case PreferenceRow():
            return ChatRow(muted(row.prompt) + row.chosen, row.tools)
        case LabelledRow():
            answer = row.completion if row.label else muted(row.completion)
            return ChatRow(muted(row.prompt) + answer, row.tools)


def rejected_chat(row: PreferenceRow) -> ChatRow:
    """The conversation with the worse answer of a pair."""
    return ChatRow(muted(row.prompt) + row.rejected, row.tools)


def muted(messages: list[Message]) -> list[Message]:
    """The messages with no assistant turn that counts in the loss."""
    return [message | {"weight": 0} if message["role"] == "assistant" else message for message in messages]


def is_supervised(message: Message) -> bool:
    """Whether the message is an assistant's turn that counts in the loss."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _tools(tools: list[Any] | None) -> dict[str, Any]:
    return {"tools": tools} if tools else {}
