"""The formats that are detected. To add one, add a class in a module of this package and an entry here.

If a row matches several, the first in this list is used: formats that need more columns come first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from finetune_hub.data.formats.chat import Chat, ShareGpt
from finetune_hub.data.formats.format import Document, Format
from finetune_hub.data.formats.instruction import Alpaca, QuestionAnswer
from finetune_hub.data.formats.preference import Labelled, OpenAiPreference, Preference
from finetune_hub.data.formats.raw_text import PromptCompletion, Text
from finetune_hub.spec.row_kinds import RowKind

FORMATS: tuple[Format, ...] = (
    OpenAiPreference(),
    Preference(),
    Labelled(),
    Chat(),
    ShareGpt(),
    Alpaca(),
    PromptCompletion(),
    QuestionAnswer(),
    Text(),
)

# The formats of our own rows.
KEPT_FORMATS: dict[RowKind, Format] = {
    RowKind.CHAT: Chat(),
    RowKind.COMPLETION: PromptCompletion(),
    RowKind.TEXT: Text(),
    RowKind.PREFERENCE: Preference(),
    RowKind.LABELLED: Labelled(),
}


@dataclass(frozen=True, slots=True)
class Recognised:
    """A format, and why it was recognised."""

    format: Format
    reason: str


def recognise(sample: Sequence[Document]) -> Recognised | None:
    """Return the format that most rows match; None if they match none."""
    seen: Counter[str] = Counter()
    first: dict[str, Recognised] = {}
    for row in sample:
        for each in FORMATS:
            reason = each.looks(row)
            if reason is not None:
                seen[each.name] += 1
                first.setdefault(each.name, Recognised(each, reason))
                break
    return first[seen.most_common(1)[0][0]] if seen else None
