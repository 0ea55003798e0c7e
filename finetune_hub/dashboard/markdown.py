"""Markdown as HTML: the hub's own guides, and texts that others wrote, such as model cards.

Both are parsed by markdown-it and pass nh3, which keeps the tags and attributes listed here and nothing else. What the
page adds (buttons that copy, tables that scroll, links to sections) comes after it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import count

import nh3
from django.utils.html import escape, format_html
from django.utils.safestring import SafeString, mark_safe
from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import EnvType, OptionsDict
from mdit_py_plugins.anchors import anchors_plugin
from mdit_py_plugins.front_matter import front_matter_plugin

from finetune_hub.dashboard.icons import draw_icon

# Longer texts of others stay text: the parser may take a second for 20,000 characters that somebody made to be slow.
MAX_FOREIGN_CHARACTERS = 20_000
FOREIGN_HEADINGS = 2  # So many levels deeper than written: the page has its own title, and the card's frame another.

_TEXT_TAGS = set(
    "p br hr em strong s code pre blockquote ul ol li table thead tbody tr th td a h1 h2 h3 h4 h5 h6".split()
)
_GUIDE_TAGS = _TEXT_TAGS | set("picture source img details summary".split())
_GUIDE_ATTRIBUTES = {
    "*": {"id"},
    "a": {"href"},
    "ol": {"start"},
    "img": {"src", "alt", "width", "height"},
    "source": {"srcset", "media"},
}
_FOREIGN_ATTRIBUTES = {"a": {"href"}, "ol": {"start"}}
_ADDRESSES = {"href", "src", "srcset"}


@dataclass(frozen=True)
class Section:
    """A heading and the text below it, up to the next heading."""

    level: int
    anchor: str
    heading: str
    text: str


@dataclass(frozen=True)
class RenderedGuide:
    html: SafeString
    sections: tuple[Section, ...]


def parse_guide(text: str) -> list[Token]:
    return _guide_parser().parse(text)


def render_guide(text: str, *, resolve: Callable[[str], str | None]) -> RenderedGuide:
    """A guide of ours.

    Args:
        resolve: What an address of the text is on the hub's pages; None leaves the link's words without a link.
    """
    parser = _guide_parser()
    tokens = parser.parse(text)

    def keep_attribute(tag: str, name: str, value: str) -> str | None:
        return resolve(value) if name in _ADDRESSES else value

    html = nh3.clean(
        parser.renderer.render(tokens, parser.options, {}),
        tags=_GUIDE_TAGS,
        attributes=_GUIDE_ATTRIBUTES,
        attribute_filter=keep_attribute,
        link_rel="noopener",
    )
    return RenderedGuide(_with_furniture(html, prefix="code"), tuple(sections_of(tokens)))


@lru_cache(maxsize=64)
def render_foreign(text: str, *, prefix: str) -> SafeString:
    """Markdown that others wrote: no HTML, no pictures, no ids; what leads outside says nothing of us and for them.

    Args:
        prefix: Begins the ids of its code blocks, which must be the only ones of the page.
    """
    if len(text) > MAX_FOREIGN_CHARACTERS:
        return format_html('<pre class="code tall" tabindex="0">{}</pre>', text)
    html = nh3.clean(
        _foreign_parser().render(text),
        tags=_TEXT_TAGS,
        attributes=_FOREIGN_ATTRIBUTES,
        url_schemes={"http", "https", "mailto"},
        link_rel="nofollow noopener noreferrer",
    )
    return _with_furniture(html, prefix=prefix)


def sections_of(tokens: Iterable[Token]) -> Iterator[Section]:
    """The document cut at its headings. What stands before the first one belongs to none, and is left out."""
    level, anchor, heading, words = 0, "", "", list[str]()
    is_heading = False
    for token in tokens:
        if token.type == "heading_open":
            if level:
                yield Section(level, anchor, heading, " ".join(words))
            level, anchor, heading, words, is_heading = int(token.tag[1]), str(token.attrGet("id") or ""), "", [], True
        elif token.type == "heading_close":
            is_heading = False
        elif is_heading:
            heading += words_of(token)
        elif token.type in {"td_close", "th_close"}:
            words.append("·")
        elif token.type in {"inline", "fence", "code_block"}:
            words.append(" ".join(words_of(token).split()))
    if level:
        yield Section(level, anchor, heading, " ".join(words))


def words_of(token: Token) -> str:
    """The text of a token, as a reader sees it."""
    if token.type in {"softbreak", "hardbreak"}:
        return " "
    if token.type in {"html_inline", "html_block"}:
        return ""
    return "".join(words_of(child) for child in token.children or []) if token.children else token.content


@lru_cache(maxsize=1)
def _guide_parser() -> MarkdownIt:
    return MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).use(anchors_plugin, max_level=4)


@lru_cache(maxsize=1)
def _foreign_parser() -> MarkdownIt:
    parser = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).use(front_matter_plugin)
    parser.core.ruler.push("lower_headings", lambda state: _lower_headings(state.tokens))
    parser.add_render_rule("image", _words_of_a_picture)
    return parser


def _lower_headings(tokens: list[Token]) -> None:
    for token in tokens:
        if token.type in {"heading_open", "heading_close"}:
            token.tag = f"h{min(6, int(token.tag[1]) + FOREIGN_HEADINGS)}"


def _words_of_a_picture(
    renderer: RendererHTML, tokens: list[Token], place: int, options: OptionsDict, env: EnvType
) -> str:
    return escape(words_of(tokens[place]))


def _with_furniture(html: str, *, prefix: str) -> SafeString:
    """Sanitised HTML with what the pages give it. A `<` in it begins a tag that was let through: text has `&lt;`."""
    numbers = count(1)

    def code(match: re.Match[str]) -> str:
        name = f"{prefix}-{next(numbers)}"
        button = format_html(
            '<button type="button" class="quiet" data-copy-from="#{}" hidden>{}<span class="sr">Copy the code</span>'
            "</button>",
            name,
            draw_icon("copy"),
        )
        return f'<div class="snippet">{button}<pre class="code" id="{name}" tabindex="0">{match[1]}</pre></div>'

    html = re.sub(r"<pre>(.*?)</pre>", code, html, flags=re.DOTALL)
    html = html.replace("<table>", '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>')
    html = html.replace("</table>", "</table></div>")
    html = re.sub(
        r'<(h[2-6]) id="([^"]+)">(.*?)</\1>',
        r'<\1 id="\2">\3 <a class="anchor" href="#\2" aria-label="Link to this section">#</a></\1>',
        html,
        flags=re.DOTALL,
    )
    return mark_safe(html)  # noqa: S308  (what nh3 let through, and tags of our own)
