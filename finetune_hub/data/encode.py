"""Encode rows of any kind to tokens. Used by both the trainer and the preview."""

from __future__ import annotations

from finetune_hub.data.chat_template import ChatTemplate, EncodedRow
from finetune_hub.data.rows import CompletionRow, PreferenceRow, Row, TextRow, as_chat, rejected_chat


def encode_row(template: ChatTemplate, row: Row, max_seq_len: int | None = None) -> EncodedRow:
    """Return the row's tokens for supervised fine-tuning.

    Raises:
        UnrenderableRow: the template refuses the conversation.
        InvalidChatTemplate: there is no template, or the assistant's turns cannot be found in the rendered text.
    """
    match row:
        case TextRow():
            return template.encode_text("", row.text, max_seq_len)
        case CompletionRow():
            return template.encode_text(row.prompt, row.completion, max_seq_len)
        case _:
            chat = as_chat(row)
            return template.encode(chat.messages, chat.tools, max_seq_len)


def encode_pair(
    template: ChatTemplate, row: PreferenceRow, max_seq_len: int | None = None
) -> tuple[EncodedRow, EncodedRow]:
    """Return both answers of a pair, each after the prompt: the better one, then the worse.

    Raises:
        UnrenderableRow, InvalidChatTemplate: as `encode_row`.
    """
    return encode_row(template, as_chat(row), max_seq_len), encode_row(template, rejected_chat(row), max_seq_len)
