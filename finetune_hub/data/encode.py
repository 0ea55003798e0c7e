"""From a row of ours to tokens, whatever its kind: what the trainer learns, what the preview shows, from one place."""

from __future__ import annotations

from finetune_hub.data.chat_template import ChatTemplate, EncodedRow
from finetune_hub.data.rows import CompletionRow, Row, TextRow, as_chat


def encode_row(template: ChatTemplate, row: Row, max_seq_len: int | None = None) -> EncodedRow:
    """The row's tokens as supervised fine-tuning sees them.

    Raises:
        UnrenderableRow: the template refuses the conversation.
        InvalidChatTemplate: there is no template, or the assistant's turns cannot be found in what it renders.
    """
    match row:
        case TextRow():
            return template.encode_text("", row.text, max_seq_len)
        case CompletionRow():
            return template.encode_text(row.prompt, row.completion, max_seq_len)
        case _:
            chat = as_chat(row)
            return template.encode(chat.messages, chat.tools, max_seq_len)
