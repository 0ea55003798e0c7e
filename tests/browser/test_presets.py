"""Presets in a real browser: they fill the form in, explain themselves, and keep off what somebody typed."""

from __future__ import annotations

from playwright.sync_api import Page, Route, expect

from finetune_hub.accounts.models import Role
from finetune_hub.catalog.models import BaseModel
from finetune_hub.jobs.models import Job
from tests import factories
from tests.browser.conftest import OpenPage
from tests.browser.sample_hub import SampleHub, make_sample_hub
from tests.browser.take_screenshots import sign_in
from tests.browser.test_walks import LLAMA_33B, expect_no_sideways_scroll


def open_form(open_page: OpenPage, width: int = 1440, scheme: str = "light") -> tuple[Page, SampleHub]:
    hub = make_sample_hub()
    page = open_page(width=width, scheme=scheme)
    sign_in(page, hub.user)
    page.goto("/jobs/new/")
    expect(page.locator("[name='method.rank']")).to_have_value("16")
    return page, hub


def test_the_form_opens_filled_in_and_keeps_off_what_was_typed(open_page: OpenPage) -> None:
    page, _ = open_form(open_page)
    rate = page.locator("[name='training.learning_rate']")
    expect(rate).to_have_value("0.001")
    expect(page.get_by_text("Ten times the rate of full fine-tuning, for a hidden size of 576.")).to_be_visible()
    expect(page.get_by_role("status")).to_contain_text("It fits")
    page.get_by_role("radio", name="Best quality").check()
    expect(page.locator("[name='method.rank']")).to_have_value("64")
    rate.fill("3e-4")
    rate.blur()
    expect(page.get_by_role("radio", name="My own values")).to_be_checked()
    page.get_by_role("button", name="Add another dataset").click()
    expect(page.locator("[name=dataset]")).to_have_count(2)
    expect(rate).to_have_value("3e-4")
    page.get_by_role("radio", name="Quick").check()
    expect(rate).to_have_value("0.001")
    expect(page.get_by_role("radio", name="Quick")).to_be_checked()
    page.errors.clear()  # A request that is replaced on its way is an error to the console.


def test_what_is_typed_is_planned_before_the_field_is_left(open_page: OpenPage) -> None:
    page, _ = open_form(open_page)
    page.get_by_label("Adapter name").fill("first-adapter")
    recipe = page.locator("#recipe-yaml")
    expect(recipe).to_contain_text("adapter_name: first-adapter")
    expect(page.locator(".htmx-request")).to_have_count(0)
    rank = page.get_by_role("spinbutton", name="Rank")
    rank.focus()
    page.wait_for_timeout(500)  # What leaving the field before has asked for is answered.
    rank.fill("24")
    expect(recipe).to_contain_text("rank: 24")
    expect(rank).to_be_focused()


def test_an_answer_that_comes_late_keeps_off_what_was_typed(open_page: OpenPage) -> None:
    hub = make_sample_hub()
    page = open_page()
    sign_in(page, hub.user)
    held: list[Route] = []

    def hold_the_first_answer(route: Route) -> None:
        if route.request.method == "POST" and not held:
            held.append(route)
        else:
            route.continue_()

    page.route("**/jobs/new/", hold_the_first_answer)
    with page.expect_request(lambda request: request.method == "POST"):
        page.goto("/jobs/new/")
    rank = page.get_by_role("spinbutton", name="Rank")
    rank.fill("7")
    with page.expect_response(lambda response: response.request.method == "POST"):
        held[0].continue_()
    expect(page.locator(".htmx-request")).to_have_count(0)
    expect(page.get_by_role("radio", name="My own values")).to_be_checked()
    expect(rank).to_have_value("7")


def test_several_datasets_are_weighed_and_submitted(open_page: OpenPage) -> None:
    page, _ = open_form(open_page, width=390)
    weights = page.locator("[name=weight]")
    expect(weights.first).to_be_hidden()
    page.get_by_role("button", name="Add another dataset").click()
    expect(weights).to_have_count(2)
    weights.nth(1).fill("0.5")
    weights.nth(1).blur()
    expect_no_sideways_scroll(page)
    expect(page.get_by_text("weight: 0.5")).to_be_attached()
    page.get_by_label("Adapter name").fill("both")
    page.get_by_role("button", name="Submit the job").click()
    page.get_by_text("Submitted.").first.wait_for()
    job = Job.objects.latest("created_at")
    assert [choice.weight for choice in job.training_spec().datasets] == [1.0, 0.5]
    page.goto("/jobs/new/")
    page.get_by_role("button", name="Add another dataset").click()
    page.get_by_role("button", name="Remove this dataset").first.click()
    expect(page.locator("[name=dataset]")).to_have_count(1)
    page.errors.clear()  # A request that is replaced on its way is an error to the console.


def test_what_fits_nowhere_can_be_insisted_on(open_page: OpenPage) -> None:
    page, hub = open_form(open_page)
    model = BaseModel.objects.get(team=hub.team, name="smollm2-135m-instruct")
    BaseModel.objects.filter(pk=model.pk).update(facts=model.facts | LLAMA_33B | {"parameter_count": 10**12})
    page.get_by_role("button", name="Submit the job").click()
    expect(page.get_by_text("It does not fit").first).to_be_visible()
    page.get_by_label("Submit it even if it fits on no device").check()
    page.get_by_role("button", name="Submit the job").click()
    page.get_by_text("Submitted.").first.wait_for()
    page.errors.clear()  # The console notes the 422 that was asked for, and requests that the page left behind.


def test_pairs_are_offered_dpo(open_page: OpenPage) -> None:
    alice = factories.make_user("alice")
    team = factories.make_team(alice, role=Role.ADMIN)
    factories.make_base_model(team)
    rows = [{"prompt": f"{number}?", "chosen": "yes", "rejected": "no"} for number in range(20)]
    factories.make_dataset_version(team, "pairs", rows=rows)
    page = open_page()
    sign_in(page, alice)
    page.goto("/jobs/new/")
    expect(page.get_by_label("Objective")).to_have_value("dpo")
    expect(page.get_by_label("Beta")).to_be_visible()
    page.get_by_label("Objective").select_option("sft")
    expect(page.get_by_label("Beta")).to_be_hidden()
