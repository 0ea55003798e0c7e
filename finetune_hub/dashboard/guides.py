"""The guides under `/docs`: the Markdown files in docs, in the order of docs/README.md.

Files that docs/README.md does not link to are not shown. Documents are cached, as they never change while the hub
runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from posixpath import dirname, join, normpath

from django.conf import settings
from django.templatetags.static import static
from django.urls import reverse
from markdown_it.token import Token

from finetune_hub.dashboard.markdown import RenderedGuide, parse_guide, render_guide, words_of

INDEX = "README"
SCHEMA = "openapi.yaml"
TOC_LEVELS = {2, 3}


@dataclass(frozen=True)
class Entry:
    """A line of the index.

    Attributes:
        name: The file's path in docs without extension: `jobs`, `adr/0003-the-scheduler-waits`. Empty: no guide.
    """

    name: str
    title: str
    summary: str
    url: str

    @property
    def is_decision(self) -> bool:
        return self.name.startswith("adr/")


@dataclass(frozen=True)
class GuideGroup:
    title: str
    entries: tuple[Entry, ...]


@dataclass(frozen=True)
class Guide:
    entry: Entry
    document: RenderedGuide

    @property
    def contents(self) -> list[tuple[int, str, str]]:
        """Level, anchor and text of each heading in the table of contents."""
        return [
            (section.level, section.anchor, section.heading)
            for section in self.document.sections
            if section.level in TOC_LEVELS
        ]


def docs_folder() -> Path:
    return Path(settings.BASE_DIR) / "docs"


@cache
def groups() -> tuple[GuideGroup, ...]:
    """Return the index: its headings with the links under them."""
    found: list[tuple[str, list[Entry]]] = []
    tokens = parse_guide(read(INDEX))
    for place, token in enumerate(tokens):
        if token.type == "heading_open" and token.tag == "h2":
            found.append((words_of(tokens[place + 1]), []))
        elif token.type == "list_item_open" and found:
            found[-1][1].extend(_entries_of(tokens[place + 2]))
    return tuple(GuideGroup(title, tuple(entries)) for title, entries in found)


def _entries_of(line: Token) -> Iterator[Entry]:
    """Parse `[title](address): summary` into an entry."""
    children = line.children or []
    if children and children[0].type == "link_open":
        address = str(children[0].attrs["href"])
        end = next(place for place, child in enumerate(children) if child.type == "link_close")
        title = "".join(words_of(child) for child in children[1:end])
        summary = "".join(words_of(child) for child in children[end + 1 :]).lstrip(": ")
        yield Entry(
            address.removesuffix(".md") if address.endswith(".md") else "", title, summary, url_of(address) or ""
        )


@cache
def entries() -> dict[str, Entry]:
    """Return the guides by name, in the order of the index."""
    return {entry.name: entry for group in groups() for entry in group.entries if entry.name}


@cache
def guide(name: str) -> Guide:
    """Return the rendered guide.

    Raises:
        KeyError: the index has no such guide.
    """
    entry = entries()[name]
    return Guide(entry, render_guide(read(name), resolve=lambda address: url_of(address, origin=f"{name}.md")))


def neighbours(name: str) -> tuple[Entry | None, Entry | None]:
    """Return the previous and the next guide."""
    every = list(entries().values())
    place = every.index(entries()[name])
    return every[place - 1] if place else None, every[place + 1] if place + 1 < len(every) else None


def read(name: str) -> str:
    return (docs_folder() / f"{name}.md").read_text()


def url_of(address: str, *, origin: str = f"{INDEX}.md") -> str | None:
    """Convert a link in the document `origin` to a URL of the hub; None for files that the hub does not show."""
    if re.match(r"[a-z]+:|#", address):
        return address
    path, _, fragment = address.partition("#")
    path = normpath(join(dirname(origin), path))
    if path == f"{INDEX}.md":
        url = reverse("docs")
    elif path == SCHEMA:
        url = reverse("api:schema")
    elif path.startswith("images/"):
        url = static(f"docs/{path}")
    elif path.endswith(".md") and not path.startswith(".."):
        url = reverse("guide", args=[path.removesuffix(".md")])
    else:
        return None
    return f"{url}#{fragment}" if fragment else url
