"""The hub's rows: whatever a file's format, each of its rows becomes one of these five kinds.

    chat        {"messages": […], "tools": […]}
    completion  {"prompt": "…", "completion": "…"}                raw text, without the chat template
    text        {"text": "…"}                                     raw text, every token supervised
    preference  {"prompt": […], "chosen": […], "rejected": […]}   messages, one answer better than the other
    labelled    {"prompt": […], "completion": […], "label": true} messages, an answer that was good or bad

The hub can read these formats too, so reading a stored file again gives the same file.
Supervised fine-tuning uses every kind: of a pair it learns the chosen answer, of labelled answers the good ones.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Message = dict[str, Any]

ROLES = ("system", "user", "assistant", "tool")


@dataclass(frozen=True, slots=True)
class ChatRow:
    """One conversation; the assistant's turns are supervised, except those with weight 0."""

    messages: list[Message]
    tools: list[Any] | None = None

    def document(self) -> dict[str, Any]:
        return {"messages": self.messages} | _tools(self.tools)


@dataclass(frozen=True, slots=True)
class CompletionRow:
    """Raw text in two parts; the second is supervised."""

    prompt: str
    completion: str

    def document(self) -> dict[str, Any]:
        return {"prompt": self.prompt, "completion": self.completion}


@dataclass(frozen=True, slots=True)
class TextRow:
    """Raw text; all of it is supervised."""

    text: str

    def document(self) -> dict[str, Any]:
        return {"text": self.text}


@dataclass(frozen=True, slots=True)
class PreferenceRow:
    """Two answers to one prompt, one better than the other."""

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
    """Return the conversation for supervised fine-tuning; of a pair, only the chosen answer is supervised."""
    match row:
        case ChatRow():
            return row
        case PreferenceRow():
            return ChatRow(muted(row.prompt) + row.chosen, row.tools)
        case LabelledRow():
            answer = row.completion if row.label else muted(row.completion)
            return ChatRow(muted(row.prompt) + answer, row.tools)


def rejected_chat(row: PreferenceRow) -> ChatRow:
    """Return the conversation with the worse answer of a pair."""
    return ChatRow(muted(row.prompt) + row.rejected, row.tools)


def muted(messages: list[Message]) -> list[Message]:
    """Return the messages with weight 0 on all assistant turns."""
    return [message | {"weight": 0} if message["role"] == "assistant" else message for message in messages]


def is_supervised(message: Message) -> bool:
    """Return whether the message is an assistant turn that counts in the loss."""
    return bool(message["role"] == "assistant" and message.get("weight", 1) != 0)


def _tools(tools: list[Any] | None) -> dict[str, Any]:
    return {"tools": tools} if tools else {}
