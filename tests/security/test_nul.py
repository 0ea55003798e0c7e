"""A NUL in any part of a request is refused in words: Postgres stores none, and fails when it is asked for one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.core.files.uploadedfile import SimpleUploadedFile
from django.test import Client
from django.urls import URLPattern, get_resolver

from finetune_hub.accounts.actions import create_token
from finetune_hub.accounts.models import Role
from finetune_hub.data.report import look_at
from finetune_hub.jobs.models import Job
from tests.factories import first_member, make_job, make_team, make_worker

ROW = b'{"text": "a"}\n'


@pytest.fixture
def job(db: None) -> Job:
    make_worker("w1")
    return make_job(make_team(role=Role.ADMIN))


@pytest.fixture
def api(job: Job) -> Client:
    _, token = create_token(first_member(job.team), job.team, name="test")
    return Client(raise_request_exception=False, headers={"Authorization": f"Bearer {token}"})


@pytest.fixture
def browser(job: Job) -> Client:
    browser = Client(raise_request_exception=False)
    browser.force_login(first_member(job.team))
    return browser


def pages(job: Job) -> list[str]:
    """The addresses of all pages, with something in the place of each part."""
    part = {"job_id": job.pk, "dataset_id": job.dataset_versions.get().dataset_id, "number": 1, "name": "w1"}
    patterns = get_resolver("finetune_hub.dashboard.urls").url_patterns
    addresses = []
    for pattern in patterns:
        assert isinstance(pattern, URLPattern)
        address = str(pattern.pattern)
        for name, converter in pattern.pattern.converters.items():
            value = part.get(name, 1 if type(converter).__name__ == "IntConverter" else "x")
            for spelled in (f"<int:{name}>", f"<str:{name}>", f"<slug:{name}>", f"<path:{name}>"):
                address = address.replace(spelled, str(value))
        addresses.append(f"/{address}")
    return addresses


FIELDS = ["name", "upload", "source", "text", "username", "base_model", "template", "url", "file_name", "fingerprint"]


def test_a_form_of_any_page(browser: Client, job: Job) -> None:
    for address in pages(job):
        answer = browser.post(address, dict.fromkeys(FIELDS, "a\0b") | {"size_bytes": "1"})
        assert answer.status_code in {400, 405}, address
        assert browser.post(address, {"a\0b": "1"}).status_code in {400, 405}, address
        assert browser.get(f"{address}?q=%00").status_code == 400, address


def test_a_form_of_somebody_who_is_not_signed_in(job: Job) -> None:
    client = Client(raise_request_exception=False)
    assert client.post("/login/", {"username": "a\0", "password": "b\0"}).status_code == 400


@pytest.mark.parametrize("field", ["name", "upload", "mapping", "on_error", "other"])
def test_a_field_beside_a_file(api: Client, field: str) -> None:
    sent = {"name": "rows", "file": SimpleUploadedFile("rows.jsonl", ROW), field: "a\0b"}
    answer = api.post("/api/datasets", sent)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body")


@pytest.mark.parametrize("name", ["a\0b.jsonl", "\0", "a\r\nb.jsonl", "\ud800.jsonl", "../../a.jsonl", "a" * 5000])
def test_a_file_name(api: Client, browser: Client, name: str) -> None:
    body = (
        b'--x\r\nContent-Disposition: form-data; name="name"\r\n\r\nrows\r\n--x\r\n'
        b'Content-Disposition: form-data; name="file"; filename="' + name.encode(errors="surrogatepass") + b'"\r\n\r\n'
        + ROW + b"\r\n--x--\r\n"
    )  # fmt: skip
    for client, address in ((api, "/api/datasets"), (browser, "/datasets/upload/")):
        answer = client.post(address, body, content_type="multipart/form-data; boundary=x")
        assert answer.status_code < 500


@pytest.mark.parametrize("value", ["a\\u0000b", "\\ud800"])
def test_a_text_in_json(api: Client, job: Job, value: str) -> None:
    bodies = {
        "jobs": f'{{"base_model": "{value}"}}',
        "jobs ": f'{{"{value}": 1}}',
        "plans": f'{{"base_model": "tiny", "datasets": [{{"name": "{value}"}}]}}',
        "tokens": f'{{"name": "{value}"}}',
        "uploads": f'{{"file_name": "{value}", "size_bytes": 1, "fingerprint": "{value}"}}',
        "base-models": f'{{"name": "a", "source": "{value}"}}',
        "datasets/import": f'{{"name": "a", "source": "https://x/{value}"}}',
        "recipes/import": f'{{"text": "{value}"}}',
        "base-model-aliases": f'{{"alias": "{value}", "base_model": "tiny"}}',
        f"jobs/{job.pk}/cancel": f'{{"reason": "{value}"}}',
        f"jobs/{job.pk}/clone": f'{{"changes": {{"adapter_name": "{value}"}}}}',
    }
    for address, body in bodies.items():
        answer = api.post(f"/api/{address.strip()}", body, content_type="application/json")
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_body"), address


@pytest.mark.parametrize("value", ["a\0b", "\x01", "é\x7f"])
def test_a_header(api: Client, browser: Client, job: Job, value: str) -> None:
    spec = {"base_model": "tiny", "datasets": [{"name": "tickets"}]}
    headers: dict[str, Any] = {"Idempotency-Key": value}
    answer = api.post("/api/jobs", spec, content_type="application/json", headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "invalid_idempotency_key")
    for name in ("Last-Event-ID", "HX-Target", "HX-Current-URL", "User-Agent", "Referer", "Accept", "X-Forwarded-For"):
        assert browser.get("/jobs/", headers={name: value}).status_code < 500
        assert api.get("/api/jobs", headers={name: value}).status_code < 500
    for authorization in (f"Bearer {value}", f"Bearer fth_{value}", f"{value} x", "Bearer"):
        answer = Client(raise_request_exception=False).get("/api/jobs", headers={"Authorization": authorization})
        assert answer.status_code == 401
    browser.cookies["sessionid"] = value
    assert browser.get("/jobs/").status_code in {302, 400}


def test_a_dataset(tmp_path: Path) -> None:
    for name, content in (
        ("rows.jsonl", b'{"text": "a\\u0000b"}\n'),
        ("rows.csv", b"text,b\na\0b,c\n"),
        ("rows.csv", b"te\0xt,text\na,c\n"),
        ("rows.txt", b"a\0b"),
    ):
        file = tmp_path / name
        file.write_bytes(content)
        report = look_at(file)
        assert not any("\0" in str(row) for row in report.first_rows)
