"""Deletion over the API: foreseen, refused with what is in the way, done once, listed, restored."""

from __future__ import annotations

from datetime import timedelta

from django.db.models.functions import Now

from finetune_hub.accounts.models import AuditEvent
from finetune_hub.catalog.models import Deletion
from finetune_hub.jobs.models import Job, JobState
from tests.api.conftest import World


def test_what_is_in_the_way_is_listed_before_and_in_the_refusal(world: World) -> None:
    alice, job = world["owner"], world.job
    dataset = job.dataset_versions.get()
    addresses = [
        f"/api/datasets/{dataset.dataset_id}",
        f"/api/datasets/{dataset.dataset_id}/versions/{dataset.number}",
        f"/api/base-models/{job.base_model_id}",
        f"/api/jobs/{job.pk}",
    ]
    for address in addresses:
        held_by = alice.get(f"{address}/deletion").json()["held_by"]
        assert [(each["kind"], each["id"]) for each in held_by] == [("job", job.pk)]
        refused = alice.delete(f"{address}?accept_dependents=true")
        assert refused.status_code == 409
        error = refused.json()["error"]
        assert error["code"].endswith("_in_use")
        assert job.pk in error["message"]
        assert error["details"][0]["loc"] == ["job", job.pk]
    assert not Deletion.objects.exists()


def test_a_base_model_is_deleted_with_what_stops_working_accepted(world: World) -> None:
    alice, model = world["owner"], world.job.over
    Job.objects.filter(pk=world.job.pk).update(state=JobState.CANCELLED, finished_at=Now())
    address = f"/api/base-models/{model.pk}"
    stops = alice.get(f"{address}/deletion").json()["stops_working"]
    assert [each["name"] for each in stops] == [str(world.version)]
    refused = alice.delete(address).json()["error"]
    assert (refused["code"], str(world.version) in refused["message"]) == ("has_dependents", True)
    assert alice.delete(f"{address}?accept_dependents=maybe").status_code == 422
    deletion = alice.delete(f"{address}?accept_dependents=true").json()
    assert alice.get(address).status_code == 404
    assert alice.get("/api/base-models").json()["data"] == []
    assert alice.post(f"/api/trash/{deletion['id']}/restore").json()["restored_at"]
    assert alice.get(address).status_code == 200


def test_deleted_twice_is_deleted_once_and_restored_by_anybody_who_may(world: World) -> None:
    alice, bob, adapter = world["owner"], world["teammate"], world.version.adapter_id
    foreseen = alice.get(f"/api/adapters/{adapter}/deletion").json()
    assert (foreseen["file_count"], foreseen["grace_seconds"]) == (2, 7 * 86_400)
    assert foreseen["sentence"] == "It can be restored for 7 days. After that, 2 files (4.1 kB) are deleted."
    first, second = (alice.delete(f"/api/adapters/{adapter}").json() for _ in range(2))
    assert first == second
    assert (first["kind"], first["deleted_by"], first["size_bytes"]) == ("adapter", "alice", foreseen["size_bytes"])
    assert alice.delete(f"/api/adapters/{adapter}/versions/1").json() == first
    assert alice.get(f"/api/adapters/{adapter}/deletion").json()["error"]["code"] == "already_deleted"
    for gone in (f"adapters/{adapter}", f"adapters/{adapter}/versions/1", f"adapters/{adapter}/versions/1/archive"):
        assert alice.get(f"/api/{gone}").status_code == 404
    assert alice.get("/api/adapters").json()["data"] == []
    assert [row["id"] for row in world["viewer"].get("/api/trash").json()["data"]] == [first["id"]]
    assert world["outsider"].get("/api/trash").json()["data"] == []
    assert [bob.post(f"/api/trash/{first['id']}/restore").status_code for _ in range(2)] == [200, 200]
    assert alice.get(f"/api/adapters/{adapter}/versions/1").status_code == 200
    assert alice.get("/api/trash").json()["data"] == []
    events = list(AuditEvent.objects.filter(team=world.team).order_by("pk").values_list("actor__username", "verb"))
    assert [event for event in events if event[1] in {"deleted", "restored"}] == [
        ("alice", "deleted"),
        ("bob", "restored"),
    ]


def test_after_the_grace_there_is_no_way_back(world: World) -> None:
    alice = world["owner"]
    deletion = alice.delete(f"/api/adapters/{world.version.adapter_id}/versions/1").json()
    Deletion.objects.update(purge_after=Now() - timedelta(seconds=1))
    assert alice.get("/api/trash").json()["data"] == []
    refused = alice.post(f"/api/trash/{deletion['id']}/restore")
    assert (refused.status_code, refused.json()["error"]["code"]) == (410, "restore_expired")


def test_a_deleted_job_is_gone_from_lists_and_its_adapter_is_not(world: World) -> None:
    alice, job = world["owner"], world.job
    Job.objects.filter(pk=job.pk).update(state=JobState.CANCELLED, finished_at=Now())
    deletion = alice.delete(f"/api/jobs/{job.pk}").json()
    assert deletion["subject"] == f"job {job.pk} (tickets-tiny)"
    assert alice.get("/api/jobs").json()["data"] == []
    for gone in ("", "/events", "/metrics", "/log"):
        assert alice.get(f"/api/jobs/{job.pk}{gone}").status_code == 404
    for verb in ("retry", "cancel", "pause", "resume", "clone"):
        assert alice.post(f"/api/jobs/{job.pk}/{verb}", {}).status_code == 404
    assert alice.get(f"/api/adapters/{world.version.adapter_id}").status_code == 200
    alice.post(f"/api/trash/{deletion['id']}/restore")
    assert alice.get(f"/api/jobs/{job.pk}/metrics").json()["data"]


def test_a_dataset_goes_with_all_versions_and_its_tombstones_stay_readable(world: World) -> None:
    alice = world["owner"]
    Job.objects.filter(pk=world.job.pk).update(state=JobState.CANCELLED, finished_at=Now())
    dataset = world.job.dataset_versions.get().dataset_id
    alice.delete(f"/api/datasets/{dataset}")
    assert alice.get("/api/datasets").json()["data"] == []
    version = alice.get(f"/api/datasets/{dataset}/versions/1").json()
    assert (version["first_rows"], bool(version["deleted_at"])) == ([], True)
