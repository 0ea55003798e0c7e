"""The walk of a first day in a real browser: narrow and wide, light and dark, without an error or a sideways scroll."""

from __future__ import annotations

import json
from itertools import product

import pytest
from axe_playwright_python.sync_playwright import Axe
from django.db import transaction
from playwright.sync_api import Page, expect

from finetune_hub.accounts.models import Role
from finetune_hub.jobs.lifecycle import EventDraft, add_events, lock_job, settle_stop
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.steering import pause_job
from tests import factories
from tests.browser.conftest import OpenPage
from tests.browser.sample_hub import make_sample_hub, record_steps, ticket
from tests.browser.take_screenshots import paths_of, sign_in

LLAMA_33B = {
    "parameter_count": 32_528_943_616,
    "layers": 60,
    "hidden_size": 6656,
    "heads": 52,
    "kv_heads": 52,
    "head_dim": 128,
    "intermediate_size": 17920,
    "vocabulary_size": 32000,
    "tied_head": False,
    "size_bytes": 65_057_887_232,
}
NOTED_BY_THE_CONSOLE = "the server responded with a status of 422"


def expect_no_sideways_scroll(page: Page) -> None:
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width <= page.viewport_size["width"], f"{page.url} is {width} px wide"


def upload(page: Page, content: bytes) -> None:
    page.set_input_files("[name=file]", {"name": "rows.jsonl", "mimeType": "application/jsonl", "buffer": content})
    page.get_by_role("button", name="Upload and check").click()


@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (1440, "dark")])
def test_from_the_sign_in_to_a_job(open_page: OpenPage, width: int, scheme: str) -> None:
    alice = factories.make_user("alice", password="correct horse")
    team = factories.make_team(alice, role=Role.ADMIN)
    factories.make_base_model(team)
    page = open_page(width=width, scheme=scheme)
    page.goto("/")
    page.get_by_label("Username").fill("alice")
    page.get_by_label("Password").fill("correct horse")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("link", name="Datasets").click()
    page.get_by_role("link", name="Upload", exact=True).click()
    page.get_by_role("textbox", name="Name", exact=True).fill("support-tickets")
    good = "".join(json.dumps(ticket(number)) + "\n" for number in range(20)).encode()
    upload(page, good + b"not json\n")
    expect(page.get_by_role("heading", name="What to fix")).to_be_visible()
    expect(page.get_by_text("rows.jsonl, line 21")).to_be_visible()
    expect_no_sideways_scroll(page)
    page.errors[:] = [error for error in page.errors if NOTED_BY_THE_CONSOLE not in error]
    upload(page, good)
    expect(page.get_by_text("support-tickets v1 is ready: 20 rows.")).to_be_visible()
    page.get_by_role("link", name="Train on it").click()
    expect(page.locator("[data-reason]").first).to_be_visible()  # The preset has filled the form in.
    page.get_by_role("spinbutton", name="Rank").fill("8")
    page.get_by_text("As soon as a suitable device is free").click()
    page.get_by_role("spinbutton", name="Priority").fill("3")
    page.get_by_role("textbox", name="Stop after").fill("4h")
    expect_no_sideways_scroll(page)
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_role("heading", name="support-tickets-tiny")).to_be_visible()
    expect(page.get_by_text("rank: 8")).to_be_visible()
    expect(page.locator("dl", has_text="Stops after")).to_contain_text("4h")
    assert Job.objects.get(created_by=alice).priority == 3
    expect_no_sideways_scroll(page)


def test_an_upload_tells_how_far_it_is(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    page.goto("/datasets/upload/")
    slow = {"offline": False, "latency": 0, "downloadThroughput": -1, "uploadThroughput": 400_000}
    page.context.new_cdp_session(page).send("Network.emulateNetworkConditions", slow)
    page.get_by_role("textbox", name="Name", exact=True).fill("large")
    upload(page, b"".join(json.dumps(ticket(number)).encode() + b"\n" for number in range(3000)))
    expect(page.locator("[data-upload-progress]")).to_contain_text("kB of")
    expect(page.get_by_text("large v1 is ready: 3,000 rows.")).to_be_visible(timeout=20_000)


def test_a_plan_that_does_not_fit_is_mended_by_a_click(open_page: OpenPage) -> None:
    alice = factories.make_user("alice")
    team = factories.make_team(alice, role=Role.ADMIN)
    factories.make_base_model(team, "llama-33b", facts=LLAMA_33B)
    factories.make_dataset_version(team)
    worker = factories.make_worker(devices=0)
    worker.devices.create(index=0, kind="cuda", name="NVIDIA RTX 6000 Ada", memory_bytes=48 * 2**30)
    page = open_page(width=390)
    sign_in(page, alice)
    page.goto("/jobs/new/")
    expect(page.get_by_label("Method")).to_have_value("qlora")  # As the preset made it fit.
    page.get_by_label("Method").select_option("lora")
    expect(page.get_by_role("status")).to_contain_text("It does not fit NVIDIA RTX 6000 Ada")
    expect_no_sideways_scroll(page)
    page.get_by_role("button", name="The base model in 4 bits (NF4)").first.click()
    expect(page.get_by_label("Method")).to_have_value("qlora")
    expect(page.get_by_role("status")).to_contain_text("It fits NVIDIA RTX 6000 Ada")
    expect_no_sideways_scroll(page)


def test_the_page_of_a_running_job_lives(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    page.goto(f"/jobs/{hub.running.pk}/")
    expect(page.locator("#curve canvas")).to_be_visible()
    record_steps(hub.running.attempts.get(), 5, first=181)
    Job.objects.filter(pk=hub.running.pk).update(step=185)
    add_events(hub.running, [EventDraft("Checkpoint at step 185.")])
    expect(page.get_by_text("Checkpoint at step 185.")).to_be_visible()
    expect(page.get_by_text("185 of 300 steps")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    expect(page.get_by_text("stopping").first).to_be_visible()


def test_a_job_is_paused_resumed_cancelled_and_retried(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page(width=390)
    sign_in(page, hub.user)
    page.goto(f"/jobs/{hub.running.pk}/")
    page.get_by_role("button", name="Pause").click()
    expect(page.get_by_text("pausing").first).to_be_visible()
    expect_no_sideways_scroll(page)
    with transaction.atomic():  # As its worker would.
        settle_stop(lock_job(hub.running.pk), hub.running.attempts.get(), was_asked=True)
    expect(page.get_by_text("It is paused. Resume it to continue")).to_be_visible()
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("queued").first).to_be_visible()
    page.get_by_label("Priority").select_option("5")
    page.get_by_role("button", name="Set").click()
    expect(page.get_by_text("Priority changed from 0 to 5.")).to_be_visible()
    page.get_by_role("button", name="Cancel").click()
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Retried. It will start from the beginning.")).to_be_visible()
    expect_no_sideways_scroll(page)


def test_buttons_follow_what_others_do(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    page.goto(f"/jobs/{hub.running.pk}/")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    pause_job(hub.running.pk, hub.user)
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    expect(page.get_by_role("button", name="Pause")).to_have_count(0)
    page.get_by_role("button", name="Resume").click()
    expect(page.get_by_text("Resumed before it had paused.")).to_be_visible()


def test_no_page_errs_or_scrolls_sideways(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    for path in paths_of(hub).values():
        page.goto(path)
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            for width in (1920, 1440, 768, 390):
                page.set_viewport_size({"width": width, "height": 900})
                expect_no_sideways_scroll(page)


def test_no_page_keeps_anybody_out(open_page: OpenPage) -> None:
    """axe-core finds nothing serious: contrast, names of controls, landmarks, the order of headings."""
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    found = []
    for path in paths_of(hub).values():
        page.goto(path)
        for width, scheme in product((390, 1440), ("light", "dark")):
            page.set_viewport_size({"width": width, "height": 900})
            page.emulate_media(color_scheme=scheme)
            found += [f"{path} {width} {scheme}: {finding}" for finding in serious_findings(page)]
    assert found == []


def test_axe_would_find_something(open_page: OpenPage) -> None:
    page = open_page()
    page.goto("/login/")
    page.evaluate("document.querySelectorAll('label').forEach((label) => label.remove())")
    assert any(finding.startswith("label: ") for finding in serious_findings(page))


def serious_findings(page: Page) -> list[str]:
    """What axe-core calls serious or critical on the page, each with the element that it is about."""
    violations = Axe().run(page).response["violations"]
    return [
        f"{violation['id']}: {node['html'][:120]}"
        for violation in violations
        if violation["impact"] in {"serious", "critical"}
        for node in violation["nodes"]
    ]


def test_an_admin_drains_a_worker(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page(width=390)
    sign_in(page, hub.user)
    page.get_by_role("link", name="Workers").click()
    card = page.locator("section.card").filter(has=page.get_by_role("heading", name="gpu-1"))
    expect(card.get_by_text("healthy")).to_be_visible()
    card.get_by_role("button", name="Drain").click()
    expect(card.get_by_text("draining")).to_be_visible()
    expect(card.get_by_role("link", name=hub.running.subject)).to_be_visible()  # What runs goes on.
    expect_no_sideways_scroll(page)
    card.get_by_role("button", name="Resume").click()
    expect(card.get_by_text("healthy")).to_be_visible()
