"""The guides below `/docs`: all of them, their links, the search, and the ways that lead there from the pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from django.conf import settings
from django.contrib.staticfiles import finders
from django.template import Context, Template
from django.urls import reverse

from finetune_hub.dashboard import guides
from finetune_hub.dashboard.guide_search import search
from tests.dashboard.conftest import World

ROOT = Path(settings.BASE_DIR)
WRITTEN = sorted(str(path.relative_to(ROOT / "docs").with_suffix("")) for path in (ROOT / "docs").rglob("*.md"))
WRITTEN.remove(guides.INDEX)


def test_the_index_leads_to_every_guide(world: World) -> None:
    page = world["viewer"].get(reverse("docs")).content.decode()
    assert set(guides.entries()) == set(WRITTEN), "docs/README.md is the index: name each guide there."
    for name in WRITTEN:
        assert f'href="/docs/{name}/"' in page
    assert 'href="/api/schema"' in page


@pytest.mark.parametrize("name", WRITTEN)
def test_the_links_of_a_guide_lead_somewhere(name: str) -> None:
    addresses = re.findall(r'(?:href|src|srcset)="([^"]+)"', guides.guide(name).document.html)
    for address in addresses:
        path, _, anchor = address.partition("#")
        if path.startswith("/docs/"):
            target = guides.guide(path.removeprefix("/docs/").rstrip("/")) if path != "/docs/" else None
        elif path.startswith("/static/"):
            assert finders.find(path.removeprefix("/static/")), address
            continue
        else:
            assert path in {"", reverse("api:schema")} or path.startswith(("http://", "https://")), address
            target = None if path else guides.guide(name)
        if target and anchor:
            assert anchor in {section.anchor for section in target.document.sections}, address


def test_a_guide_is_shown_with_the_way_around(world: World) -> None:
    page = world["viewer"].get("/docs/jobs/").content.decode()
    assert "<h1" in page
    assert '<a href="/docs/jobs/" aria-current="page">' in page  # The navigation beside the text.
    assert '<a href="#retry">Retry</a>' in page  # The table of contents.
    assert '<h2 id="retry">Retry ' in page
    assert 'href="/docs/adr/0006-priorities-above-zero-are-for-admins/"' in page
    assert 'href="/docs/placement/" rel="next"' in page


def test_what_is_no_guide_is_not_found(world: World) -> None:
    for name in ("none", "README", "adr", "../README", "..%2FREADME", "openapi", "jobs.md"):
        assert world["viewer"].get(f"/docs/{name}/").status_code == 404, name


def test_only_what_the_index_names_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In an installed hub, docs is a folder of site-packages: another package's files may lie there."""
    monkeypatch.setattr(guides, "docs_folder", lambda: tmp_path)
    (tmp_path / "foreign.md").write_text("# Foreign")
    with pytest.raises(KeyError):
        guides.guide("foreign")


@pytest.mark.parametrize(
    ("query", "first"),
    [
        ("pause", "/docs/jobs/#pause-and-preempt"),
        ("how do I pause a job", "/docs/jobs/#pause-and-preempt"),
        ("why does my job wait", "/docs/placement/#why-a-job-waits"),
        ("dataset", "/docs/datasets/"),
        ("DATASETS", "/docs/datasets/"),
        ("out_of_memory", "/docs/jobs/#what-happens-after-a-failure"),
        ("chat templates", "/docs/base-models/#without-a-chat-template"),
        ("gguf export", "/docs/exports/"),
    ],
)
def test_the_search_finds_the_section(query: str, first: str) -> None:
    assert search(query)[0].place.url == first


def test_the_title_counts_more_than_a_heading_and_that_more_than_the_text() -> None:
    found = [hit.place for hit in search("placement")]
    levels = [1 if place.section.level == 1 and "lacement" in place.section.heading else 2 for place in found]
    assert levels[0] == 1
    headed = [
        bool(re.search("chat template", hit.place.section.heading, re.IGNORECASE)) for hit in search("chat template")
    ]
    assert headed == sorted(headed, reverse=True)
    assert headed[0]
    assert not headed[-1]


def test_a_found_page_shows_where_and_marks_the_words(world: World) -> None:
    page = world["viewer"].get("/docs/", {"q": "max_seq_len"}).content.decode()
    assert '<a href="/docs/datasets/#what-a-base-model-sees">What a base model sees</a>' in page
    assert "<mark>max_seq_len</mark>" in page


def test_any_query_is_answered_and_escaped(world: World) -> None:
    for query in ("<script>alert(1)</script>", '"><img src=x>', "(", "\\", "*", "ß İ", "a" * 5000):
        response = world["viewer"].get("/docs/", {"q": query})
        assert response.status_code == 200
        page = response.content.decode()
        assert "<script>alert" not in page
        assert "<img src=x" not in page


def test_an_excerpt_is_escaped() -> None:
    """The guides have `{"name": …}` and `<…>` in their code."""
    shown = "".join(hit.excerpt for hit in search("messages role content"))
    assert "&quot;<mark>role</mark>&quot;" in shown
    assert not re.search(r"<(?!/?mark>)", shown)


def test_nothing_found_is_said(world: World) -> None:
    assert "Nothing found" in world["viewer"].get("/docs/", {"q": "zzzz"}).content.decode()


def test_the_frame_leads_to_the_docs(world: World) -> None:
    assert f'href="{reverse("docs")}"' in world["viewer"].get(reverse("jobs")).content.decode()


def test_pages_lead_to_the_guides_that_explain_them(world: World) -> None:
    assert "/docs/jobs/" in world["viewer"].get(reverse("jobs")).content.decode()
    named = [
        (path, *found)
        for path in (ROOT / "templates").rglob("*.html")
        for found in re.findall(
            r"{% guide \"([\w/-]+)\"(?: \"([\w-]+)\")? %}|{% url 'guide' '([\w/-]+)' %}", path.read_text()
        )
    ]
    assert len(named) > 15
    for path, name, anchor, other in named:
        guide = guides.guide(name or other)
        assert not anchor or anchor in {section.anchor for section in guide.document.sections}, path


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("See docs/operations.md.", 'See <a href="/docs/operations/">Running the hub</a>.'),
        ("`docs/workers.md` says", '<a href="/docs/workers/">Workers on other machines</a> says'),
        ("docs/none.md and `docs/none.md`", "docs/none.md and <code>docs/none.md</code>"),
        ("my`docs/<b>.md`", "my<code>docs/&lt;b&gt;.md</code>"),
        ("`a` <b>", "<code>a</code> &lt;b&gt;"),
    ],
)
def test_a_message_that_names_a_guide_leads_to_it(text: str, shown: str) -> None:
    assert Template("{% load hub %}{{ text|code_marks }}").render(Context({"text": text})) == shown


def test_every_guide_named_by_the_product_exists() -> None:
    """In errors, help texts and docstrings."""
    for folder in ("finetune_hub", "workers", "templates"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in {".py", ".html"}:
                for named in re.findall(r"\bdocs/([\w/-]+\.(?:md|yaml))\b", path.read_text()):
                    assert (ROOT / "docs" / named).exists(), f"{path} names docs/{named}"
