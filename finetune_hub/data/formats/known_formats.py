"""The formats that are found by themselves. A new one is a class in a file beside this one, and an entry here.

Where a row looks like several, the first in this list is meant: what asks for more columns stands further up.
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

# The formats that rows of ours are in.
KEPT_FORMATS: dict[RowKind, Format] = {
    RowKind.CHAT: Chat(),
    RowKind.COMPLETION: PromptCompletion(),
    RowKind.TEXT: Text(),
    RowKind.PREFERENCE: Preference(),
    RowKind.LABELLED: Labelled(),
}


@dataclass(frozen=True, slots=True)
class Recognised:
    """A format, and why the file is taken to have it."""

    format: Format
    reason: str


def recognise(sample: Sequence[Document]) -> Recognised | None:
    """The format that most of the rows look like; None: they look like no format."""
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
