"""One row token by token, as the trainer would see it."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.encode import encode_row
from finetune_hub.data.rows import Row

SHOWN_TOKENS = 2000


@dataclass(frozen=True, slots=True)
class Token:
    """One token as the preview shows it."""

    id: int
    text: str  # A character that several tokens share is in the first of them.
    supervised: bool
    truncated: bool


@dataclass(frozen=True, slots=True)
class RowTokens:
    """The first tokens of a row, and counts of all of them."""

    tokens: list[Token]  # The first 2,000.
    token_count: int
    supervised_count: int  # Within `max_seq_len`.
    truncated_count: int


def row_tokens(template: ChatTemplate, row: Row, max_seq_len: int) -> RowTokens:
    """Encode the row with the base model's template and tokenizer.

    Raises:
        InvalidChatTemplate: there is none, or it rejects the row.
    """
    encoded = encode_row(template, row)
    tokens = []
    shown = 0  # Characters that are part of tokens already.
    pairs = zip(encoded.input_ids[:SHOWN_TOKENS], encoded.spans, encoded.supervised, strict=False)
    for index, (id_, (start, end), supervised) in enumerate(pairs):
        text = encoded.text[shown:end] if end > start else template.token(id_)
        shown = max(shown, end)
        # The first token is never learned: nothing in front of it could predict it.
        tokens.append(Token(id_, text, supervised and index > 0, truncated=index >= max_seq_len))
    return RowTokens(
        tokens,
        token_count=len(encoded.input_ids),
        supervised_count=sum(encoded.supervised[1:max_seq_len]),
        truncated_count=max(0, len(encoded.input_ids) - max_seq_len),
    )
