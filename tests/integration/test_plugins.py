"""A method, an objective, a measure and kinds of job that no file of ours knows, from form to result."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from finetune_hub.cli.answers import JobDetail
from tests.integration.conftest import OWN, RunningHub, wait_until
from tests.tiny_models import make_chat_rows, make_tiny_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def plugged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningHub]:
    """A hub that was told of the plugin, with the base model `tiny` and the dataset `rows`."""
    folder = tmp_path_factory.mktemp("plugged")
    for parent in (folder, folder.parent):
        parent.chmod(0o711)
    environment = {key: value for key, value in os.environ.items() if key not in OWN}
    environment |= {"FINETUNE_HUB_PLUGINS": "tests.made_up", "PYTHONPATH": str(REPOSITORY)}
    running = RunningHub(folder / "home", environment)
    make_tiny_model(folder / "home" / "models" / "tiny")
    make_chat_rows(folder / "rows.jsonl", 32)
    try:
        running.start()
        with running.client() as client:
            job_id = client.import_base_model("tiny", "folder:tiny").job_id
            assert list(client.watch(job_id))[-1].job.state == "succeeded"
            client.push_dataset(folder / "rows.jsonl", "rows")
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="module")
def browser(plugged: RunningHub) -> Iterator[httpx.Client]:
    """Signed in, as a person is by the link that `up` prints."""
    with httpx.Client(base_url=plugged.state.url, follow_redirects=True, timeout=60) as client:
        link = plugged.login_link()
        client.post(link, data={"csrfmiddlewaretoken": token_in(client.get(link).text)}, headers={"Referer": link})
        yield client


def token_in(page: str) -> str:
    found = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert found, page[:2000]
    return found[1]


def submitted(browser: httpx.Client, address: str, **typed: Any) -> str:
    """Fill the form in and send it; the id of the job whose page comes back."""
    page = browser.get(address).text
    form_token = re.search(r'name="form_token" value="([^"]+)"', page)
    assert form_token
    fields = {"csrfmiddlewaretoken": token_in(page), "form_token": form_token[1], **typed}
    answer = browser.post(address, data=fields, headers={"Referer": str(browser.base_url)})
    job_id = re.search(r"/jobs/(ftjob-[a-z0-9]+)/", str(answer.url))
    assert job_id, re.findall(r'class="error".*?</p>', answer.text, re.DOTALL)
    return job_id[1]


def ended(hub: RunningHub, job_id: str) -> JobDetail:
    with hub.client() as client:
        return list(client.watch(job_id))[-1].job


def test_a_method_an_objective_and_a_measure(plugged: RunningHub, browser: httpx.Client, tmp_path: Path) -> None:
    typed = {"dataset": "rows@1", "weight": "1", "base_model": "tiny", "adapter_name": "steered", "preset": "own"}
    typed |= {"method.type": "steer", "method.strength": "2", "objective.type": "focal", "objective.gamma": "1.5"}
    typed |= {"training.max_steps": "6", "training.max_seq_len": "128", "runtime.dtype": "float32"}
    job_id = submitted(browser, "/jobs/new/", **typed)
    job = ended(plugged, job_id)
    assert job.state == "succeeded", job
    assert job.spec["method"] == {"type": "steer", "strength": 2.0}
    assert job.spec["training"]["learning_rate"] == 5e-3, "the method's own"
    with plugged.client() as client:
        points = client.metrics(job_id)
        assert [point.step for point in points] == list(range(1, 7))
        assert all(0 <= point.sure_tokens <= 1 for point in points)
        folder = client.pull("steered", None, output=tmp_path / "steered")
    assert "STEER" in (folder / "adapter_config.json").read_text()
    assert "Sure tokens" in browser.get(f"/jobs/{job_id}/").text
    page = browser.get(f"/adapters/{job.published.adapter_id}/").text
    assert "It serves only LoRA: use PEFT" in page, "what can serve it"


def test_a_kind_of_job_and_one_that_is_the_sum_of_others(plugged: RunningHub, browser: httpx.Client) -> None:
    job_id = submitted(browser, "/jobs/new/census/", dataset="rows@1", letters="ae")
    job = ended(plugged, job_id)
    assert job.state == "succeeded", job
    assert job.result.keys() == {"a", "e"}
    assert all(count > 0 for count in job.result.values())
    assert not job.attempts, "it holds no device"
    page = browser.get(f"/jobs/{job_id}/").text
    assert "How many a?" in page
    alone = submitted(browser, "/jobs/new/tally/", dataset="rows@1", letter="a")
    assert ended(plugged, alone).result == {"count": job.result["a"]}
    assert f"a stands there {job.result['a']} times" in browser.get(f"/jobs/{alone}/").text


def test_a_kind_that_serves_until_it_is_told_to_end(plugged: RunningHub, browser: httpx.Client) -> None:
    job_id = submitted(browser, "/jobs/new/herald/", word="hail")
    with plugged.client() as client:
        address = wait_until(lambda: client.job(job_id).address, seconds=60, what="its address")
        assert httpx.get(address).text == "hail"
        assert address in browser.get(f"/jobs/{job_id}/").text
        client.cancel(job_id)
        job = list(client.watch(job_id))[-1].job
    assert job.state == "succeeded", job
    assert not job.address


def test_a_kind_is_submitted_over_the_api(plugged: RunningHub) -> None:
    headers = {"Authorization": f"Bearer {plugged.new_token()}", "Idempotency-Key": "tally-1"}
    with httpx.Client(base_url=f"{plugged.state.url}/api", headers=headers, timeout=60) as api:
        kinds = {kind["name"]: kind for kind in api.get("/job-kinds").json()}
        assert {"evaluate", "tally", "census", "herald"} <= kinds.keys()
        assert kinds["tally"]["options"]["required"] == ["dataset"]
        first = api.post("/job-kinds/tally", json={"dataset": "rows", "letter": "o"})
        again = api.post("/job-kinds/tally", json={"dataset": "rows", "letter": "o"})
        assert (first.status_code, again.status_code) == (201, 200)
        assert first.json()["id"] == again.json()["id"]
        wrong = api.post("/job-kinds/tally", json={"dataset": "rows", "leter": "o"})
        assert wrong.status_code == 422
        assert "letter" in wrong.text
        assert api.post("/job-kinds/train", json={}).status_code == 404
