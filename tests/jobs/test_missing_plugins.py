"""Jobs of a plugin that is not here any more are shown, and say what is missing."""

from __future__ import annotations

import pytest
from django.test import Client

from finetune_hub.accounts.actions import create_token
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.validation import validate_job
from tests.factories import first_member, make_job, make_team

pytestmark = pytest.mark.django_db


@pytest.mark.parametrize("what", ["kind", "method", "objective"])
def test_such_a_job_is_shown_and_says_what_is_missing(what: str) -> None:
    team = make_team()
    job = make_job(team, state="validating")
    if what != "kind":
        job.spec[what] = {"type": "gone"}
    Job.objects.filter(pk=job.pk).update(kind="gone" if what == "kind" else job.kind, spec=job.spec)
    browser = Client()
    browser.force_login(first_member(team))
    _, token = create_token(first_member(team), team, name="test")
    for ended in (False, True):
        for address in ("/", "/jobs/", f"/jobs/{job.pk}/", f"/jobs/{job.pk}/metrics.json", f"/jobs/new/?like={job.pk}"):
            assert browser.get(address).status_code == 200, address
        for address in ("/api/jobs", f"/api/jobs/{job.pk}"):
            assert Client().get(address, headers={"Authorization": f"Bearer {token}"}).status_code == 200, address
        if not ended:
            validate_job(job.pk)
    job.refresh_from_db()
    assert job.state == "failed"
    assert "FINETUNE_HUB_PLUGINS" in job.failure_remedy
    assert "FINETUNE_HUB_PLUGINS" in browser.get(f"/jobs/{job.pk}/").content.decode()
