"""Numbers that are too large, or of thousands of digits, are refused in words wherever one is read."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role
from finetune_hub.data.report import look_at
from finetune_hub.jobs.models import Job
from finetune_hub.spec.numbers import LARGEST, number_of
from finetune_hub.spec.references import split_version
from finetune_hub.spec.training import TrainingSpec
from tests.factories import first_member, make_adapter_version, make_job, make_team, make_worker

HUGE = ["9" * 10_000, "9" * 400, str(2**63), "-" + "9" * 400, "1e400", "1e308"]
PLACE = '"@"'


@pytest.fixture
def job(db: None) -> Job:
    team = make_team(role=Role.ADMIN)
    job = make_job(team)
    make_adapter_version(team)
    make_worker()
    return job


@pytest.fixture
def api(job: Job) -> Client:
    _, token = create_token(first_member(job.team), job.team, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def browser(job: Job) -> Client:
    browser = Client(raise_request_exception=False)
    browser.force_login(first_member(job.team))
    return browser


def places_of(schema: dict[str, Any], whole: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """Where a document of the schema may have a number."""
    if "$ref" in schema:
        yield from places_of(whole["$defs"][schema["$ref"].rpartition("/")[2]], whole, path)
    for either in ("anyOf", "oneOf", "allOf"):
        for one in schema.get(either, []):
            yield from places_of(one, whole, path)
    for name, part in schema.get("properties", {}).items():
        yield from places_of(part, whole, (*path, name))
    if schema.get("type") in ("integer", "number"):
        yield path


SPEC = TrainingSpec.model_json_schema()
NUMBERS = sorted(set(places_of(SPEC, SPEC)))


def with_number(document: dict[str, Any], path: tuple[str, ...], number: str) -> str:
    """The document as JSON, with this number at the path."""
    node = document
    for name in path[:-1]:
        node = node.setdefault(name, {})
        node = node[0] if isinstance(node, list) else node
    node[path[-1]] = PLACE.strip('"')
    return json.dumps(document).replace(PLACE, number)


def test_a_spec(api: Client) -> None:
    assert len(NUMBERS) >= 30
    for path in NUMBERS:
        for number in HUGE[:3] if path[0] != "training" else HUGE:
            asked = {"base_model": "tiny", "datasets": [{"name": "tickets"}]}
            body = with_number(asked, path, number)
            answer = api.post("/api/plans", data=body, content_type="application/json")
            assert answer.status_code < 500, (path, number[:10])


BODIES: list[tuple[str, dict[str, Any], tuple[str, ...]]] = [
    ("/api/evaluations", {"adapter": "tickets-tiny", "dataset": "tickets"}, ("max_rows",)),
    ("/api/evaluations", {"adapter": "tickets-tiny", "dataset": "tickets"}, ("adapter_version",)),
    ("/api/evaluations", {"adapter": "tickets-tiny", "dataset": {"name": "tickets"}}, ("dataset", "version")),
    ("/api/job-kinds/evaluate", {"adapter": "tickets-tiny", "dataset": "tickets"}, ("max_rows",)),
    ("/api/jobs", {"base_model": "tiny", "datasets": [{"name": "tickets"}]}, ("priority",)),
    ("/api/jobs", {"base_model": "tiny", "datasets": [{"name": "tickets"}]}, ("training", "max_steps")),
    ("/api/jobs/JOB/retry", {}, ("from_step",)),
    ("/api/jobs/JOB/clone", {"changes": {}}, ("changes", "training", "epochs")),
    ("/api/jobs/JOB/clone", {"changes": {}}, ("priority",)),
    ("/api/tokens", {"name": "t"}, ("days",)),
    ("/api/uploads", {"file_name": "a", "fingerprint": "b"}, ("size_bytes",)),
    ("/api/datasets/DATASET/versions/1/split", {}, ("fraction",)),
    ("/api/datasets/DATASET/versions/1/split", {}, ("seed",)),
]


@pytest.mark.parametrize(("address", "body", "path"), BODIES)
def test_a_body(api: Client, job: Job, address: str, body: dict[str, Any], path: tuple[str, ...]) -> None:
    address = address.replace("JOB", job.pk).replace("DATASET", job.dataset_versions.get().dataset_id)
    for number in HUGE:
        sent = with_number(json.loads(json.dumps(body)), path, number)
        answer = api.post(address, data=sent, content_type="application/json")
        assert 400 <= answer.status_code < 500, (number[:10], answer.content[:300])
        assert answer.json()["error"]["remedy"]


QUERIES = [
    "/api/jobs?limit=@",
    "/api/jobs/JOB/events?after=@",
    "/api/jobs/JOB/metrics?after=@",
    "/api/datasets/DATASET/versions/@/rows",
    "/api/datasets/DATASET/versions/1/rows?q=x&after=@",
    "/api/datasets/DATASET/versions/1/preview?base_model=tiny&row=@",
    "/api/datasets/DATASET/versions/1/tokens?base_model=tiny&max_seq_len=@",
    "/api/datasets/DATASET/versions/1/comparison?with=tickets:@",
    "/api/workers/w/devices/cpu/@",
    "/jobs/?page=@",
    "/jobs/JOB/metrics.json?after=@",
    "/datasets/DATASET/@/",
    "/datasets/DATASET/1/rows?q=x&after=@",
    "/datasets/DATASET/1/comparison?other=@",
    "/datasets/DATASET/1/preview?base_model=tiny&max_seq_len=9&row=@",
    "/login/link/@/x-y/",
]


@pytest.mark.parametrize("address", QUERIES)
def test_an_address(api: Client, browser: Client, job: Job, address: str) -> None:
    address = address.replace("JOB", job.pk).replace("DATASET", job.dataset_versions.get().dataset_id)
    for number in [*HUGE, "\u0663" * 30, "\u00b2"]:
        answer = (api if address.startswith("/api") else browser).get(address.replace("@", number))
        assert answer.status_code < 500, number[:10]


FORMS = [
    ("job-retry", ["JOB"], "from_step", {}),
    ("job-priority", ["JOB"], "priority", {}),
    ("job-new", [], "training.max_steps", {"form_token": "t", "dataset": "tickets@1", "base_model": "tiny"}),
    ("job-new", [], "method.rank", {"form_token": "t", "dataset": "tickets@1", "base_model": "tiny"}),
    ("job-new", [], "runtime.max_duration", {"form_token": "t", "dataset": "tickets@1", "base_model": "tiny"}),
    ("job-plan", [], "training.max_steps", {"dataset": "tickets@1", "base_model": "tiny"}),
    ("dataset-split", ["DATASET", 1], "seed", {"percent": "10"}),
    ("dataset-split", ["DATASET", 1], "percent", {"seed": "10"}),
    ("upload-begin", [], "size_bytes", {"file_name": "a", "fingerprint": "b"}),
]


@pytest.mark.parametrize(("name", "arguments", "field", "others"), FORMS)
def test_a_form(browser: Client, job: Job, name: str, arguments: list[Any], field: str, others: dict[str, str]) -> None:
    ids = {"JOB": job.pk, "DATASET": job.dataset_versions.get().dataset_id}
    address = reverse(name, args=[ids.get(argument, argument) for argument in arguments])
    for number in HUGE:
        assert browser.post(address, {field: number, **others}).status_code < 500, number[:10]


@pytest.mark.parametrize("where", ["training:\n  max_steps: @", "runtime:\n  max_duration: @", "@: 1", "seed: @"])
def test_a_recipe(api: Client, where: str) -> None:
    for number in HUGE:
        text = f"base_model: tiny\ndataset: {{name: tickets}}\n{where.replace('@', number)}\n"
        for program in ("", "sequence_len: 8\n", "finetuning_type: lora\n"):
            answer = api.post("/api/recipes/import", {"text": program + text}, content_type="application/json")
            assert answer.status_code < 500, number[:10]


@pytest.mark.parametrize("number", HUGE)
def test_a_dataset_row(number: str, tmp_path: Path) -> None:
    good = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"WEIGHT}]}\n'
    for name, row in (
        ("rows.jsonl", good),
        ("rows.json", f"[{good}]"),
        ("rows.jsonl", f'{{"text": "a", "n": {number}}}'),
    ):
        file = tmp_path / name
        file.write_text(row.replace("WEIGHT", f', "weight": {number}'))
        report = look_at(file)
        assert report.row_count + report.rejected_count + report.error_count


def test_numbers_as_they_are_written() -> None:
    assert (number_of("0"), number_of("1000000000"), number_of(str(LARGEST))) == (0, 10**9, LARGEST)
    assert [number_of(text) for text in ("", "-1", "1.0", "\u00b2", "\u0663", str(LARGEST + 1), "9" * 10_000)] == [
        None
    ] * 7
    assert split_version("tickets@" + "9" * 10_000)[1] is None
