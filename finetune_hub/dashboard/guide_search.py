"""Full-text search in the guides, by section. A word scores highest in a title, then in a heading, then in the text.

The guides are about 200 kB, so each search scans all of them; only the list of sections is cached. A query word
matches words that begin with it, and a rare word scores higher than a common one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from finetune_hub.dashboard.guides import Entry, entries, guide
from finetune_hub.dashboard.markdown import Section

MAX_QUERY_CHARACTERS = 100
MAX_WORDS = 8
MAX_HITS = 20
TITLE, HEADING, TEXT, PHRASE = 8.0, 4.0, 1.0, 3.0
OF_DECISIONS = 0.5  # Decisions explain why; most searches ask how.
WEAKEST_SHARE = 0.1  # A hit that scores less than this share of the best one is left out.
EXCERPT_CHARACTERS = 220
# Ignored in a query that also has other words: `how do I pause a job`.
SMALL_WORDS = frozenset(
    "a an and are as be by can do does for from how i in is it my of on or that the this to what when why with".split()
)


@dataclass(frozen=True)
class Place:
    """A section of a guide with its searchable text."""

    entry: Entry
    section: Section
    folded: str

    @property
    def url(self) -> str:
        return self.entry.url if self.section.level == 1 else f"{self.entry.url}#{self.section.anchor}"


@dataclass(frozen=True)
class Hit:
    place: Place
    excerpt: SafeString


class Word:
    """A query word or phrase. It matches at the start of a word or of a part of one (`max_seq_len`)."""

    def __init__(self, text: str) -> None:
        self.folded = text.lower()
        self.pattern = re.compile(rf"(?<![^\W_]){re.escape(text)}\w*", re.IGNORECASE)

    def counts(self, place: Place) -> tuple[int, int]:
        """Return how often it occurs in the heading and in the text."""
        if self.folded not in place.folded:
            return 0, 0
        return len(self.pattern.findall(place.section.heading)), len(self.pattern.findall(place.section.text))


def search(query: str) -> list[Hit]:
    """Return the sections that match the query best, best first."""
    query = " ".join(query[:MAX_QUERY_CHARACTERS].split())
    words = [Word(word) for word in _words_of(query)]
    counts = {word: {place: found for place in places() if any(found := word.counts(place))} for word in words}
    rarity = {word: math.log(1 + len(places()) / len(found)) for word, found in counts.items() if found}
    scores: dict[Place, float] = {}
    for word, weight in rarity.items():
        for place, (in_heading, in_text) in counts[word].items():
            headed = (TITLE if place.section.level == 1 else HEADING) if in_heading else 0.0
            scores[place] = scores.get(place, 0.0) + weight * (headed + TEXT * in_text / (in_text + 2))
    phrase = Word(query) if len(words) > 1 else None
    for place in scores:
        if phrase and any(phrase.counts(place)):
            scores[place] += PHRASE
        if place.entry.is_decision:
            scores[place] *= OF_DECISIONS
    best = sorted(scores, key=lambda place: -scores[place])[:MAX_HITS]
    rarest = sorted(rarity, key=lambda word: -rarity[word])
    return [
        Hit(place, excerpt(place.section.text, rarest))
        for place in best
        if scores[place] >= scores[best[0]] * WEAKEST_SHARE
    ]


@cache
def places() -> tuple[Place, ...]:
    return tuple(
        Place(entry, section, f"{section.heading}\n{section.text}".lower())
        for name, entry in entries().items()
        for section in guide(name).document.sections
    )


def excerpt(text: str, words: list[Word]) -> SafeString:
    """Return the text around the first matching word, with all matches marked."""
    first = next((match.start() for word in words if (match := word.pattern.search(text))), 0)
    start = max(0, first - EXCERPT_CHARACTERS // 3)
    start = text.find(" ", start) + 1 if start else 0
    end = text.rfind(" ", start, start + EXCERPT_CHARACTERS) if start + EXCERPT_CHARACTERS < len(text) else len(text)
    marked = format_html_join("", "{}", ((part,) for part in _marked(text[start:end].strip(" ·"), words)))
    return format_html("{}{}{}", "… " if start else "", marked, " …" if end < len(text) else "")


def _marked(text: str, words: list[Word]) -> Iterator[SafeString | str]:
    done = 0
    for match in re.finditer("|".join(word.pattern.pattern for word in words), text, re.IGNORECASE):
        yield text[done : match.start()]
        yield format_html("<mark>{}</mark>", match[0])
        done = match.end()
    yield text[done:]


def _words_of(query: str) -> list[str]:
    every = re.findall(r"\w+", query)
    telling = [word for word in every if word.lower() not in SMALL_WORDS]
    return list(dict.fromkeys(map(_stem, telling or every)))[:MAX_WORDS]


def _stem(word: str) -> str:
    """Remove a plural s. As words match by prefix, `jobs` and `job` then find the same."""
    return word[:-1] if len(word) > 3 and word.lower().endswith("s") and not word.lower().endswith("ss") else word
