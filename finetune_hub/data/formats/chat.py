"""Chats: a list of messages in `messages`, as in OpenAI and TRL, or in one of sharegpt's many variants."""

from __future__ import annotations

from finetune_hub.data.defects import RowProblem
from finetune_hub.data.formats.format import Document, first_of, optional_text, raise_any
from finetune_hub.data.formats.messages import is_plain, read_messages, read_tools
from finetune_hub.data.rows import ChatRow, Message, is_supervised

CONVERSATION_KEYS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns")


class Chat:
    name = "chat"
    title = "Chat messages"

    def looks(self, row: Document) -> str | None:
        if "messages" not in row or _is_sharegpt(row["messages"]):
            return None
        return "`messages` has `role` and `content`"

    def convert(self, row: Document) -> ChatRow:
        return chat_row(row, "messages")


class ShareGpt:
    name = "sharegpt"
    title = "sharegpt"

    def looks(self, row: Document) -> str | None:
        name = first_of(row, *CONVERSATION_KEYS)
        if name is None or not isinstance(row[name], list | str):
            return None
        return f"`{name}` has {'`from` and `value`' if _is_sharegpt(row[name]) else 'messages'}"

    def convert(self, row: Document) -> ChatRow:
        return chat_row(row, first_of(row, *CONVERSATION_KEYS) or "conversations")


def chat_row(row: Document, name: str) -> ChatRow:
    """Return the row whose conversation is in the named field.

    Most rows have only plain messages, so these are checked first.

    Raises:
        BadRow: with all its problems.
    """
    if len(row) == 1 and is_plain(turns := row.get(name)) and is_supervised(turns[-1]):
        return ChatRow(turns)
    problems: list[RowProblem] = []
    messages = conversation_at(row, name, problems)
    tools = read_tools(row["tools"], problems) if row.get("tools") is not None else None
    if not problems:
        _check_answers(messages, name, problems)
    raise_any(problems)
    return ChatRow(messages, tools)


def conversation_at(row: Document, name: str, problems: list[RowProblem]) -> list[Message]:
    """Return the conversation in the named field, starting with the row's system text if there is one."""
    if row.get(name) is None:
        keys = ", ".join(sorted(map(str, row))[:6]) or "none"
        problems.append(
            RowProblem(
                "no_messages",
                f"no `{name}` list (its keys: {keys})",
                f'Write {{"{name}": [{{"role", "content"}}, …]}}.',
            )
        )
        return []
    messages = read_messages(row[name], (name,), problems)
    system = optional_text(row, "system", problems) if row.get("system") else ""
    return [{"role": "system", "content": system}, *messages] if system else messages


def _check_answers(messages: list[Message], name: str, problems: list[RowProblem]) -> None:
    if not messages:
        problems.append(
            RowProblem(
                "empty_messages",
                f"`{name}` is empty",
                "Add a user and an assistant turn, or delete the row.",
                path=(name,),
            )
        )
    elif not any(map(is_supervised, messages)):
        if any(message["role"] == "assistant" for message in messages):
            what, remedy = "every assistant turn has weight 0", "Give one of them weight 1."
        else:
            what, remedy = "no assistant turn", "Add the answer that the model should learn."
        problems.append(RowProblem("no_assistant_turn", what, remedy, path=(name,)))


def _is_sharegpt(turns: object) -> bool:
    return isinstance(turns, list) and bool(turns) and isinstance(turns[0], dict) and "from" in turns[0]
