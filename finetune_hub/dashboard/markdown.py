"""Markdown to HTML: the hub's own guides, and third-party texts such as model cards.

Both are parsed by markdown-it and sanitised by nh3, which keeps only the tags and attributes listed here. What the page
adds (copy buttons, scrolling tables, links to sections) is added afterwards.
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

# Longer third-party texts stay plain text: the parser may need a second for 20,000 malicious characters.
MAX_FOREIGN_CHARACTERS = 20_000
FOREIGN_HEADINGS = 2  # Headings are lowered by so many levels, as the page and the card have titles.

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
    """A heading and its text up to the next heading."""

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
    """Render one of our guides.

    Args:
        resolve: Converts a link's target to a URL of the hub; None: keep the text without a link.
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
    """Render third-party Markdown: no HTML, images or ids, and links with `nofollow` and `noreferrer`.

    Args:
        prefix: Prefix of the ids of its code blocks, which must be unique in the page.
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
    """Split the document at its headings. Text before the first heading is left out."""
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
    """Return the visible text of a token."""
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
    """Add the page's elements to sanitised HTML. Any `<` in it starts an allowed tag, as text has `&lt;`."""
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
    return mark_safe(html)  # noqa: S308  (sanitised by nh3, plus our own tags)
