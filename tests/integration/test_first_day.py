"""A newcomer's first day in a browser, against a hub that really trains: from the sign-in to an adapter on the disk."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.integration.conftest import RunningHub
from tests.tiny_models import make_chat_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

TRAINING_MS = 120_000


def test_from_the_sign_in_to_an_adapter(hub: RunningHub, browser: Browser, tmp_path: Path) -> None:
    rows = tmp_path / "first-day.jsonl"
    make_chat_rows(rows, 48)
    good = rows.read_text()
    page = browser.new_context(base_url=hub.state.url).new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))

    page.goto(hub.login_link())
    page.get_by_role("button", name="Sign in as").click()

    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("link", name="Upload").first.click()
    page.get_by_role("textbox", name="Name", exact=True).fill("first-day")
    rows.write_text(good + '{"messages": [{"role": "user", "content": "Hello?"}]}\n')
    upload(page, rows)
    expect(page.get_by_text("first-day.jsonl, line 49")).to_be_visible()
    expect(page.get_by_role("heading", name="What to fix")).to_be_visible()
    rows.write_text(good)
    upload(page, rows)
    expect(page.get_by_text("first-day v1 is ready: 48 rows.")).to_be_visible()

    page.get_by_role("link", name="Train on it").click()
    page.get_by_label("Base model", exact=True).select_option("tiny")
    page.get_by_label("Adapter name").fill("first-adapter")
    page.get_by_label("Micro batch size").fill("2")
    page.get_by_label("Context length").fill("128")
    page.get_by_text("Everything else").click()
    page.get_by_label("Max steps").fill("60")
    expect(page.locator("#recipe-yaml")).to_contain_text("max_steps: 60")
    page.get_by_role("button", name="Submit the job").click()

    expect(page.locator("#curve canvas")).to_be_visible(timeout=TRAINING_MS)
    step = page.locator(".tiles div").filter(has=page.get_by_text("Step", exact=True)).locator("dd")
    first = step.inner_text()
    expect(step).not_to_have_text(first)

    page.get_by_role("link", name="first-adapter v1").first.click(timeout=TRAINING_MS)
    expect(page.get_by_role("heading", name="Verified")).to_be_visible()
    with page.expect_download() as started:
        page.get_by_role("link", name="Download all (zip)").click()
    with zipfile.ZipFile(started.value.path()) as archive:
        assert archive.testzip() is None
        names = {name.rpartition("/")[2] for name in archive.namelist()}
        assert names == {"README.md", "adapter_config.json", "adapter_model.safetensors"}
        assert "library_name: peft" in archive.read("first-adapter-v1/README.md").decode()
    assert errors == []


def upload(page: Page, file: Path) -> None:
    page.set_input_files("[name=file]", file)
    page.get_by_role("button", name="Upload and check").click()
