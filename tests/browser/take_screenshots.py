"""Every page with a team's data, on a desk and on a phone, light and dark: run by `tests.browser.screenshots`.

A test for its fixtures' sake, under a name that pytest does not collect by itself.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

import pytest
from playwright.sync_api import Page

from finetune_hub.accounts.actions import login_link_tokens
from finetune_hub.accounts.models import User
from tests import factories
from tests.browser.conftest import OpenPage
from tests.browser.sample_hub import SampleHub, make_sample_hub

FOLDER = Path(os.environ.get("SCREENSHOTS", "screenshots"))
SIZES = {"desk": (1440, 900), "phone": (390, 844)}
PICTURES = Path(__file__).parents[2] / "docs" / "images"


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", list(SIZES))
def test_take_screenshots(open_page: OpenPage, device: str, scheme: str) -> None:
    hub = make_sample_hub()
    width, height = SIZES[device]
    page = open_page(width=width, height=height, scheme=scheme)
    page.goto("/login/")
    shoot(page, f"sign-in-{device}-{scheme}")
    sign_in(page, hub.user)
    for name, path in paths_of(hub).items():
        page.goto(path)
        if "job" in name:
            page.wait_for_timeout(700)  # The curve is drawn when its points have come.
        shoot(page, f"{name}-{device}-{scheme}")
    for name, button in (("token", "Create the token"), ("invited", "Add")):
        page.goto("/account/" if name == "token" else "/team/")
        page.get_by_label("Username" if name == "invited" else "Name").fill("new-one")
        page.get_by_role("button", name=button, exact=True).click()
        page.get_by_text("shown only").wait_for()
        shoot(page, f"{name}-{device}-{scheme}")
    User.objects.update(is_staff=True)
    page.goto("/workers/")
    page.get_by_label("Name").fill("gpu-7")
    page.get_by_role("button", name="Invite").click()
    page.get_by_text("shown only").wait_for()
    shoot(page, f"worker-invited-{device}-{scheme}")
    User.objects.update(is_staff=False)
    page.goto("/team/")
    page.get_by_text("Change", exact=False).nth(1).click()
    shoot(page, f"member-{device}-{scheme}")
    page.goto("/datasets/upload/")
    page.fill("[name=name]", "support-tickets")
    rows = b'{"messages": [{"role": "user", "content": "hi"}]}\nnot json\n{"messages": []}\n'
    page.set_input_files("[name=file]", {"name": "tickets.jsonl", "mimeType": "application/jsonl", "buffer": rows})
    page.get_by_role("button", name="Upload and check").click()
    page.get_by_role("heading", name="What to fix").wait_for()
    shoot(page, f"upload-errors-{device}-{scheme}")
    page.errors.clear()  # The console notes the 422 and 404 that were asked for.
    page.goto("/adapters/none/")
    shoot(page, f"not-found-{device}-{scheme}")
    page.errors.clear()
    newcomer = factories.make_user("newcomer")
    factories.make_team(newcomer)
    page.context.clear_cookies()
    sign_in(page, newcomer)
    page.goto("/")
    shoot(page, f"empty-home-{device}-{scheme}")
    for name in ("jobs", "base-models", "adapters", "team", "account"):
        page.goto(f"/{name}/")
        shoot(page, f"empty-{name}-{device}-{scheme}")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_take_pictures_of_the_docs(open_page: OpenPage, scheme: str) -> None:
    """What README.md and the guides show, as WebP in docs/images."""
    hub = make_sample_hub()
    page = open_page(width=1280, height=800, scheme=scheme)
    sign_in(page, hub.user)
    paths = paths_of(hub)
    page.goto(paths["job-running"])
    page.wait_for_timeout(1500)  # The curve is drawn when its points have come.
    picture(page, f"job-{scheme}")
    page.goto(paths["new-job"])
    page.locator(".plan-bar").first.wait_for()
    page.evaluate("document.querySelector('#plan').scrollIntoView({block: 'center'})")
    picture(page, f"plan-{scheme}")
    page.goto(paths["dataset"])
    page.get_by_label("Base model", exact=True).select_option("smollm2-135m-instruct")
    page.locator("#preview .token").first.wait_for()
    page.locator(".histogram").wait_for()
    picture(page, f"dataset-{scheme}")


def picture(page: Page, name: str) -> None:
    shot = page.context.new_cdp_session(page).send("Page.captureScreenshot", {"format": "webp", "quality": 80})
    (PICTURES / f"{name}.webp").write_bytes(base64.b64decode(shot["data"]))


def paths_of(hub: SampleHub) -> dict[str, str]:
    adapter = hub.adapter.adapter_id
    dataset = hub.running.job_datasets.get().dataset_version.dataset_id
    return {
        "home": "/",
        "jobs": "/jobs/",
        "job-running": f"/jobs/{hub.running.pk}/",
        "job-succeeded": f"/jobs/{hub.succeeded.pk}/",
        "job-failed": f"/jobs/{hub.failed.pk}/",
        "job-preferring": f"/jobs/{hub.preferring.pk}/",
        "job-paused": f"/jobs/{hub.paused.pk}/",
        "job-evaluation": f"/jobs/{hub.evaluation.pk}/",
        "new-job": "/jobs/new/",
        "datasets": "/datasets/",
        "dataset": f"/datasets/{dataset}/",
        "upload": "/datasets/upload/",
        "base-models": "/base-models/",
        "adapters": "/adapters/",
        "adapter": f"/adapters/{adapter}/",
        "workers": "/workers/",
        "quotas": "/workers/quotas/",
        "health": "/workers/health/",
        "usage": f"/team/{hub.team.slug}/usage/",
        "team": "/team/",
        "account": "/account/",
        "docs": "/docs/",
        "docs-guide": "/docs/jobs/",
        "docs-search": "/docs/?q=why+does+my+job+wait",
    }


def sign_in(page: Page, user: User) -> None:
    page.goto(f"/login/link/{user.pk}/{login_link_tokens.make_token(user)}/")
    page.get_by_role("button", name="Sign in as").click()
    page.get_by_role("heading", name="Home").wait_for()


def shoot(page: Page, name: str) -> None:
    """The whole page in one window, so that tabs at the window's end are at the picture's end."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    size = page.viewport_size
    page.set_viewport_size(size | {"height": max(size["height"], page.evaluate("document.body.scrollHeight"))})
    page.screenshot(path=FOLDER / f"{name}.png")
    page.set_viewport_size(size)
