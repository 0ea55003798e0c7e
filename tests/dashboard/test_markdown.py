"""Markdown that others wrote stays harmless and legible; that of the guides may have pictures."""

from __future__ import annotations

import html.parser

import pytest

from finetune_hub.dashboard.markdown import MAX_FOREIGN_CHARACTERS, render_foreign, render_guide

ALLOWED = set(
    "p br hr em strong s code pre blockquote ul ol li table thead tbody tr th td a h3 h4 h5 h6".split()
    + "div button span svg rect path".split()  # The page's own: copying, scrolling.
)


class Tags(html.parser.HTMLParser):
    """Every tag and attribute, as a browser would see them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        "<img src=x onerror=alert(1)>",
        "<svg/onload=alert(1)>",
        "<iframe src='https://evil.example'></iframe>",
        "<style>body{display:none}</style>",
        "<form action=/logout method=post><button>Sign in again</button></form>",
        "<a href='javascript:alert(1)'>x</a>",
        "[x](javascript:alert(1))",
        "[x](JaVaScRiPt:alert(1))",
        "[x](java&#x73;cript:alert(1))",
        "[x](&#106;avascript:alert(1))",
        "[x](javascript&colon;alert(1))",
        "[x](\x01javascript:alert(1))",
        "[x](data:text/html,<script>alert(1)</script>)",
        "[x](vbscript:msgbox(1))",
        "[x](file:///etc/passwd)",
        '[x](https://a.example "onmouseover=alert(1)")',
        '[x](https://a.example/"onmouseover="alert(1))',
        "[x](<https://a.example/</a><pre>>)",
        "<javascript:alert(1)>",
        "[x]: javascript:alert(1)\n\n[x]",
        "![x](https://evil.example/pixel.png)",
        "![x](/logout)",
        '![x](x "y" onerror=alert(1))',
        "[![x](https://evil.example/pixel.png)](https://evil.example)",
        "```\n</code></pre><script>alert(1)</script>\n```",
        "```html onload=alert(1)\nx\n```",
        "`</code><script>alert(1)</script>`",
        "| a |\n|---|\n| <script>alert(1)</script> |",
        "# <img src=x onerror=alert(1)>",
        "# x {#main onclick=alert(1)}",
        "<!-- --><script>alert(1)</script>",
        "<table><tr><td></table><pre>",
        "---\ntitle: <script>alert(1)</script>\n---\n# x",
    ],
)
def test_what_others_wrote_runs_and_loads_nothing(attack: str) -> None:
    shown = render_foreign(f"before\n\n{attack}\n\nafter" if not attack.startswith("---") else attack, prefix="card")
    for tag, attributes in Tags(shown).found:
        assert tag in ALLOWED
        assert not [name for name in attributes if name.startswith("on") or name in {"style", "src", "srcset"}]
        if tag == "a" and (address := attributes.get("href")) is not None:
            assert address.startswith(("https://a.example", "https://evil.example"))
            assert attributes["rel"] == "nofollow noopener noreferrer"
        assert attributes.get("id", "card-1") == "card-1"


def test_a_picture_becomes_its_words() -> None:
    assert render_foreign("![the *loss* <b>](curve.png)", prefix="card") == "<p>the loss &lt;b&gt;</p>\n"


def test_a_card_is_read_as_it_was_meant() -> None:
    card = (
        "---\nlicense: mit\n---\n# Name\n\n~~no~~ **yes**\n\n| a | b |\n|---|--:|\n| 1 | 2 |\n\n```python\na < b\n```\n"
    )
    shown = render_foreign(card, prefix="card")
    assert "license" not in shown
    assert "<h3>Name</h3>" in shown
    assert "<s>no</s> <strong>yes</strong>" in shown
    assert '<div class="scroll" role="region" aria-label="Table" tabindex="0"><table>' in shown
    assert '<pre class="code" id="card-1" tabindex="0"><code>a &lt; b\n</code></pre>' in shown
    assert 'data-copy-from="#card-1"' in shown


@pytest.mark.parametrize("text", ["", "\n", "---", "---\n---"])
def test_a_card_without_words_is_empty(text: str) -> None:
    assert not Tags(render_foreign(text, prefix="card").replace("<hr>", "")).found


def test_what_is_too_long_to_parse_is_shown_as_text() -> None:
    shown = render_foreign("[" * (MAX_FOREIGN_CHARACTERS + 1), prefix="card")
    assert shown.startswith('<pre class="code tall" tabindex="0">[[')


def test_a_guides_addresses_become_the_hubs() -> None:
    addresses = {"jobs.md": "/docs/jobs/", "dark.webp": "/static/dark.webp"}
    text = """[a](jobs.md) [b](../LICENSE)

<picture><source media="(prefers-color-scheme: dark)" srcset="dark.webp">
<img src="dark.webp" alt="A job" onload="x"></picture>
<script>alert(1)</script>"""
    shown = render_guide(text, resolve=addresses.get).html
    assert '<a href="/docs/jobs/" rel="noopener">a</a> <a rel="noopener">b</a>' in shown
    assert '<source media="(prefers-color-scheme: dark)" srcset="/static/dark.webp">' in shown
    assert '<img src="/static/dark.webp" alt="A job">' in shown
    assert "alert" not in shown


def test_a_guide_is_cut_at_its_headings() -> None:
    text = (
        "# Jobs\n\nOne.\n\n## Why `x` waits\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n```\ncode\n```\n\n## Why `x` waits\n"
    )
    document = render_guide(text, resolve=str)
    assert [(s.level, s.anchor, s.heading, s.text) for s in document.sections] == [
        (1, "jobs", "Jobs", "One."),
        (2, "why-x-waits", "Why x waits", "a · b · 1 · 2 · code"),
        (2, "why-x-waits-1", "Why x waits", ""),
    ]
    assert '<h2 id="why-x-waits">Why <code>x</code> waits <a class="anchor" href="#why-x-waits"' in document.html
