"""The walk of a dataset in a real browser: unknown columns, errors by line, the fixed file, and what a model sees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from playwright.sync_api import Page, Route, expect

from finetune_hub.accounts.models import Role
from tests import factories
from tests.browser.conftest import OpenPage
from tests.browser.take_screenshots import shoot, sign_in
from tests.browser.test_walks import NOTED_BY_THE_CONSOLE, expect_no_sideways_scroll, serious_findings
from tests.tiny_models import make_tokenizer

ROWS = [f"Wie viel ist {number} + 1?;{number + 1};{number}" for number in range(40)]
LONG = f"Wie viel ist {'1 + ' * 200} 1?;201;41"


def table(*rows: str) -> bytes:
    return ("\n".join(["frage;antwort;nr", *rows]) + "\n").encode()


def choose(page: Page, content: bytes) -> None:
    page.set_input_files("[name=file]", {"name": "fragen.csv", "mimeType": "text/csv", "buffer": content})


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1440, "light")])
def test_from_unknown_columns_to_the_plan(open_page: OpenPage, tmp_path: Path, width: int, scheme: str) -> None:
    alice = factories.make_user("alice")
    team = factories.make_team(alice, role=Role.ADMIN)
    make_tokenizer(tmp_path / "model")
    factories.make_base_model(team, folder=tmp_path / "model")
    factories.make_worker()
    page = open_page(width=width, scheme=scheme)
    sign_in(page, alice)
    page.goto("/datasets/upload/")
    page.get_by_role("textbox", name="Name", exact=True).fill("fragen")
    choose(page, table(*ROWS, '"offen" x;y;2', LONG))
    page.get_by_role("button", name="Upload and check").click()

    expect(page.get_by_role("heading", name="Which column is what?")).to_be_visible()
    page.get_by_label("frage").select_option("user")
    page.get_by_label("antwort").select_option("assistant")
    look(page, "dataset-mapping", width, scheme)
    page.get_by_role("button", name="Upload and check").click()  # The file is still chosen.

    expect(page.get_by_role("heading", name="What to fix")).to_be_visible()
    expect(page.get_by_text("fragen.csv, line 42")).to_be_visible()
    look(page, "dataset-errors", width, scheme)
    choose(page, table(*ROWS, LONG))
    page.get_by_role("button", name="Upload and check").click()

    expect(page.get_by_text("fragen v1 is ready: 41 rows.")).to_be_visible()
    expect(page.locator(".token.learned").first).to_be_visible()
    expect(page.get_by_text("all 41 rows")).to_be_visible()
    page.get_by_label("max_seq_len").fill("256")
    page.get_by_label("max_seq_len").blur()
    silent = page.locator("#lengths .link")
    expect(silent).to_have_text("41")
    silent.click()
    expect(page.get_by_text("no supervised tokens within max_seq_len")).to_be_visible()
    expect(page.get_by_label("Row", exact=True)).to_have_value("41")
    look(page, "dataset-cut", width, scheme)
    page.get_by_role("button", name="Row 40").click()
    expect(page.get_by_label("Row", exact=True)).to_have_value("40")
    expect(page.get_by_text("truncated", exact=True)).to_be_visible()  # Of the legend.
    expect(page.locator(".token.learned").first).to_be_visible()
    look(page, "dataset-preview", width, scheme)

    page.get_by_role("link", name="Train on it").click()
    expect(page.get_by_role("status")).to_contain_text("It fits")
    page.errors[:] = [error for error in page.errors if NOTED_BY_THE_CONSOLE not in error]


def look(page: Page, name: str, width: int, scheme: str) -> None:
    """No sideways scroll, nothing that keeps anybody out, and a picture where SCREENSHOTS names a folder."""
    expect_no_sideways_scroll(page)
    assert serious_findings(page) == []
    if "SCREENSHOTS" in os.environ:
        shoot(page, f"{name}-{width}-{scheme}")
        page.errors.clear()  # The page's policy refuses the style with which Playwright hides the caret.


def test_a_large_file_goes_on_after_a_break(open_page: OpenPage) -> None:
    alice = factories.make_user("alice")
    factories.make_team(alice, role=Role.ADMIN)
    page = open_page()
    sign_in(page, alice)
    page.goto("/datasets/upload/")
    page.get_by_role("textbox", name="Name", exact=True).fill("fragen")
    rows = [f"question {number}?,answer" for number in range(400)]
    content = "\n".join(["question,answer", *rows]).encode()
    page.set_input_files("[name=file]", {"name": "fragen.csv", "mimeType": "text/csv", "buffer": content})
    page.evaluate("Object.assign(document.querySelector('[data-parts-to]').dataset, {partsAbove: 1, partBytes: 3000})")
    offsets: list[str] = []

    def break_once(route: Route) -> None:
        offsets.append(route.request.url.rpartition("=")[2])
        (route.abort if len(offsets) == 2 else route.continue_)()

    page.route("**/parts?offset=*", break_once)
    page.get_by_role("button", name="Upload and check").click()
    expect(page.get_by_text("fragen v1 is ready: 400 rows.")).to_be_visible()
    assert offsets == ["0", "3000", *map(str, range(3000, len(content), 3000))]
    page.errors.clear()  # The console notes the part that was lost.
