"""The commands against a live server, with the worker's part played by the functions that it calls."""

from __future__ import annotations

import shutil
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import yaml
from django.conf import settings
from django.db import connection, transaction
from django.utils import timezone

from finetune_hub.accounts.models import Team
from finetune_hub.artifacts.store import shared_store
from finetune_hub.cli import data_client
from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import MAX_PAUSE_SECONDS, HubError
from finetune_hub.jobs.lifecycle import end_job, lock_job
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.training import TrainingSpec
from tests.api.bad_files import GOOD_ROW
from tests.cli.conftest import RunCommand, run_command
from tests.factories import (
    chat_row,
    make_adapter_version,
    make_attempt,
    make_base_model,
    make_dataset_version,
    make_job,
    make_worker,
)
from tests.tiny_models import make_tokenizer


def end_soon(job: Job, state: JobState, failed: Failed | None = None) -> threading.Thread:
    """End the job in half a second, as its worker would."""

    def end() -> None:
        time.sleep(0.5)
        with transaction.atomic():
            end_job(lock_job(job.pk), state, "It has ended.", failed=failed)
        connection.close()

    thread = threading.Thread(target=end)
    thread.start()
    return thread


def test_push_and_list(hub: RunCommand) -> None:
    Path("Support Tickets.jsonl").write_text(GOOD_ROW)
    assert hub("datasets", "push", "Support Tickets.jsonl").out.startswith("support-tickets:1  1 rows")
    assert hub("datasets", "push", "Support Tickets.jsonl", "--name", "other", "--json").json["number"] == 1
    assert {dataset["name"] for dataset in hub("datasets", "list", "--json").json} == {"support-tickets", "other"}
    assert "support-tickets" in hub("datasets", "list").out


def test_check_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sums.csv").write_text("frage,antwort\n2 + 2?,4\n")
    unknown = run_command("datasets", "check", "sums.csv")
    assert unknown.code == 3
    assert "`frage`" in unknown.err
    mapped = run_command("datasets", "check", "sums.csv", "--map", "frage=user", "--map", "antwort=assistant")
    assert mapped.code == 0
    assert mapped.out.startswith("Mapped columns in CSV: ")
    assert "1 rows, all valid" in mapped.out
    wrong = run_command("datasets", "check", "sums.csv", "--map", "frage", "--json")
    assert wrong.error["code"] == "invalid_mapping"
    assert run_command("datasets", "check", "sums.csv", "--map", "frage=usr", "--json").error["field"] == "mapping"


def test_push_sets_bad_rows_aside_on_demand(hub: RunCommand) -> None:
    Path("rows.jsonl").write_text(f"{GOOD_ROW}\n{{oops\n")
    assert hub("datasets", "push", "rows.jsonl").code == 3
    pushed = hub("datasets", "push", "rows.jsonl", "--quarantine")
    assert pushed.out.startswith("rows:1  1 rows, 1 set aside")


def test_a_push_that_broke_off_goes_on(hub: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_client, "WHOLE_BYTES", 1000)
    monkeypatch.setattr("finetune_hub.cli.connection.PART_BYTES", 1000)
    Path("rows.jsonl").write_text(f"{GOOD_ROW}\n" * 50)
    sent: list[int] = []
    real_send = Hub._send

    def breaking_send(self: Hub, method: str, path: str, **request: Any) -> Any:
        if method == "PUT":
            sent.append(request["params"]["offset"])
            if len(sent) == 3:
                raise KeyboardInterrupt
        return real_send(self, method, path, **request)

    monkeypatch.setattr(Hub, "_send", breaking_send)
    assert hub("datasets", "push", "rows.jsonl").code != 0
    assert hub("datasets", "push", "rows.jsonl").out.startswith("rows:1  50 rows")
    assert sent[:4] == [0, 1000, 2000, 2000]
    assert sent[3:] == list(range(2000, Path("rows.jsonl").stat().st_size, 1000))


def test_a_push_waits_for_a_hub_that_restarts(hub: RunCommand, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_client, "WHOLE_BYTES", 1000)
    Path("rows.jsonl").write_text(f"{GOOD_ROW}\n" * 50)
    broken, pauses = iter([True, True, False]), []
    request = httpx.Client.request

    def break_twice(client: httpx.Client, method: str, *arguments: Any, **options: Any) -> httpx.Response:
        if method == "PUT" and next(broken):
            raise httpx.ConnectError("down")
        return request(client, method, *arguments, **options)

    monkeypatch.setattr(httpx.Client, "request", break_twice)
    monkeypatch.setattr("tenacity.nap.time", SimpleNamespace(sleep=pauses.append))  # Other threads sleep as ever.
    assert hub("datasets", "push", "rows.jsonl").out.startswith("rows:1  50 rows")
    assert len(pauses) == 2
    assert all(0 <= pause <= MAX_PAUSE_SECONDS for pause in pauses)


def test_preview_marks_what_is_learned(hub: RunCommand, team: Team, tmp_path: Path) -> None:
    make_tokenizer(tmp_path / "model")
    make_base_model(team, folder=tmp_path / "model")
    make_dataset_version(team)
    shown = hub("datasets", "preview", "tickets", "--base-model", "tiny", "--row", "2").out
    assert "1 + 1?<|im_end|>" in shown
    assert "[[2<|im_end|>]]" in shown
    assert "Tokens of 8 of 8 rows" in shown
    cut = hub("datasets", "preview", "tickets:1", "--base-model", "tiny", "--max-seq-len", "40")
    assert "8 rows have no supervised token within 40 tokens: 1, 2, 3, 4, 5, 6, 7, 8." in cut.out
    assert hub("datasets", "preview", "tickets", "--base-model", "tiny", "--json").json["row"]["number"] == 1
    assert hub("datasets", "preview", "absent", "--base-model", "tiny", "--json").error["code"] == "unknown_dataset"


def test_versions_are_compared_split_searched_and_deleted(hub: RunCommand, team: Team) -> None:
    rows = [chat_row(f"question {number}?", str(number)) for number in range(10)]
    make_dataset_version(team, rows=rows)
    make_dataset_version(team, rows=[*rows[1:], chat_row("new?")])
    compared = hub("datasets", "compare", "tickets", "tickets:1").out
    assert "Rows: 1 added, 1 removed; 9 unchanged." in compared
    assert "row 1 asks what row 2 asks (100% alike)" in compared
    assert (
        hub("datasets", "split", "tickets:1", "--fraction", "0.2").out.splitlines()[1] == "tickets-held-out:1  2 rows"
    )
    found = hub("datasets", "rows", "tickets", "--search", "NEW").json
    assert (found["number"], found["document"]) == (10, chat_row("new?"))
    assert hub("datasets", "delete", "tickets").code == 3
    assert hub("datasets", "delete", "tickets:2").out == "tickets:2 is deleted.\n"
    assert hub("datasets", "rows", "tickets").out.count("\n") == 10  # Version 1 is the newest again.


def test_submit_show_and_cancel(hub: RunCommand, team: Team) -> None:
    make_base_model(team)
    make_dataset_version(team)
    Path("recipe.yaml").write_text("base_model: tiny\ndataset: {name: tickets}\n")
    first = hub("jobs", "submit", "recipe.yaml", "--idempotency-key", "k")
    again = hub("jobs", "submit", "recipe.yaml", "--idempotency-key", "k", "--json")
    job_id = first.out.strip()
    assert (first.code, again.json["id"]) == (0, job_id)
    assert "tickets:1" in hub("jobs", "show", job_id).out
    assert job_id in hub("jobs", "list").out
    assert "is cancelled" in hub("jobs", "cancel", job_id).out
    assert "is cancelled" in hub("jobs", "cancel", job_id).out
    assert hub("jobs", "wait", job_id).code == 5


def test_a_job_of_another_kind_is_submitted_by_its_options(hub: RunCommand, team: Team) -> None:
    version = make_adapter_version(team)
    make_dataset_version(team, "held-out")
    Path("evaluate.yaml").write_text(f"kind: evaluate\nadapter: {version.adapter.name}\ndataset: held-out@1\n")
    job = hub("jobs", "submit", "evaluate.yaml", "--idempotency-key", "k", "--json").json
    assert (job["kind"], job["evaluates"]["adapter_id"]) == ("evaluate", version.adapter_id)
    assert hub("jobs", "submit", "evaluate.yaml", "--idempotency-key", "k").out.strip() == job["id"]
    assert hub("jobs", "submit", "evaluate.yaml", "--priority", "-1", "--json").error["code"] == "invalid_option"
    Path("evaluate.yaml").write_text("kind: evaluation\n")
    assert hub("jobs", "submit", "evaluate.yaml", "--json").error["code"] == "not_found"
    Path("evaluate.yaml").write_text("kind: evaluate\nadaptr: a\ndataset: d\n")
    details = hub("jobs", "submit", "evaluate.yaml", "--json").error["details"]
    assert any("`adapter`" in detail["remedy"] for detail in details)


def test_a_job_is_steered(hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    assert hub("jobs", "pause", job.pk, "--reason", "Lunch.").out == f"{job.pk} is paused.\n"
    assert "Paused. Lunch." in hub("jobs", "logs", job.pk).out
    assert hub("jobs", "resume", job.pk).out == f"{job.pk} continues.\n"
    assert hub("jobs", "preempt", job.pk, "--json").error["code"] == "wrong_job_state"
    make_attempt(job, make_worker("gpu-1"))
    assert hub("jobs", "preempt", job.pk).out == f"{job.pk} is queued again.\n"
    assert hub("jobs", "priority", job.pk, "5").out == f"{job.pk} has priority 5.\n"
    assert hub("jobs", "priority", job.pk, "--json", "--", "-2").json["priority"] == -2
    assert "priority    -2" in hub("jobs", "show", job.pk).out
    assert hub("jobs", "retry", job.pk, "--json").error["code"] == "wrong_job_state"
    assert hub("jobs", "cancel", job.pk, "--reason", "It rains.").code == 0
    assert hub("jobs", "retry", job.pk).out == f"{job.pk} runs again from the beginning.\n"
    assert hub("jobs", "show", job.pk, "--json").json["state"] == "validating"


def test_a_job_is_cloned_with_changes_and_submitted_after_another(hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    changes = ("--set", "training.epochs=3", "--set", "training.seed=1", "--set", "method.target_modules=[q_proj]")
    clone = hub("jobs", "clone", job.pk, *changes, "--after", job.pk, "--json").json
    assert (clone["spec"]["training"]["epochs"], clone["spec"]["training"]["seed"]) == (3, 1)
    assert (clone["spec"]["method"]["target_modules"], clone["after"]) == (["q_proj"], job.pk)
    assert hub("jobs", "clone", job.pk).out.strip() in {found.pk for found in team.jobs.all()}
    for wrong in ("epochs", "=3", "training.=3", "training.epochs=["):
        assert hub("jobs", "clone", job.pk, "--set", wrong, "--json").error["code"] == "invalid_change"
    Path("recipe.yaml").write_text("base_model: tiny\ndataset: {name: tickets}\n")
    behind = hub("jobs", "submit", "recipe.yaml", "--after", job.pk, "--priority", "3", "--json").json
    assert (behind["after"], behind["priority"]) == (job.pk, 3)


@pytest.mark.parametrize(("state", "code"), [(JobState.SUCCEEDED, 0), (JobState.FAILED, 4), (JobState.CANCELLED, 5)])
def test_waiting_ends_like_the_job(state: JobState, code: int, hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    failed = Failed("bad_data", "The rows are bad.", "Fix them.") if state == JobState.FAILED else None
    thread = end_soon(job, state, failed)
    answer = hub("jobs", "wait", job.pk)
    thread.join()
    assert answer.code == code
    assert "It has ended." in answer.err
    assert failed is None or "The rows are bad.\nFix them." in answer.err


def test_logs_follow_to_the_end(hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    thread = end_soon(job, JobState.SUCCEEDED)
    answer = hub("jobs", "logs", job.pk, "-f")
    thread.join()
    assert (answer.code, answer.out.count("\n")) == (0, 1)
    assert hub("jobs", "logs", job.pk).out == answer.out
    assert hub("jobs", "logs", job.pk, "--engine", "--json").json == {"text": ""}


def test_watching_outlives_a_short_outage(api: Hub, team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    job = make_job(team)
    request, broken = httpx.Client.request, iter([True, False, True, True])

    def break_sometimes(client: httpx.Client, *arguments: object, **options: object) -> httpx.Response:
        if next(broken, False):
            raise httpx.ConnectError("down")
        return request(client, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Client, "request", break_sometimes)
    thread = end_soon(job, JobState.SUCCEEDED)
    looks = list(api.watch(job.pk, poll_seconds=0.05))
    thread.join()
    assert looks[-1].has_ended
    assert [event.number for look in looks for event in look.events] == [1]


def test_watching_an_unknown_job_ends_at_once(api: Hub) -> None:
    with pytest.raises(HubError) as caught:
        next(api.watch("ftjob-unknown"))
    assert (caught.value.code, caught.value.status) == ("not_found", 404)


def test_import_names_its_job(hub: RunCommand, team: Team) -> None:
    answer = hub("base-models", "import", "smollm2-135m-instruct", "--json").json
    assert team.jobs.get().pk == answer["job_id"]
    assert "importing" in hub("base-models", "list").out
    assert hub("base-models", "import", "smollm2-135m-instruct").code == 3


def test_workers_are_listed(hub: RunCommand, team: Team) -> None:
    make_worker("gpu-1")
    assert "gpu-1  healthy" in hub("workers", "list").out
    assert "several small jobs" in hub("workers", "share", "gpu-1", "cpu:0").out
    assert hub("workers", "list", "--json").json[0]["devices"][0]["is_shared"]
    assert "one job at a time" in hub("workers", "share", "gpu-1", "cpu:0", "--off").out
    assert hub("workers", "list", "--json").json[0]["health"] == "healthy"


def test_a_worker_is_removed_and_a_device_released(hub: RunCommand, team: Team) -> None:
    make_worker("gone", heartbeat_at=timezone.now() - timedelta(hours=1))
    device = make_worker("gpu-1").devices.get()
    type(device).objects.filter(pk=device.pk).update(quarantined_at=timezone.now(), quarantine_reason="It is hot.")
    assert hub("workers", "remove", "gpu-1", "--json").error["code"] == "worker_in_use"
    assert hub("workers", "remove", "gone").out.startswith("gone is removed")
    assert hub("workers", "remove", "gone").code == 3
    assert hub("workers", "release", "gpu-1", "cpu").code == 2
    assert hub("workers", "release", "gpu-1", "cpu:0").out == "cpu:0 of gpu-1 can run jobs again.\n"
    [listed] = hub("workers", "list", "--json").json
    assert listed["devices"][0]["quarantined_at"] is None


def test_usage_as_a_table_and_as_csv(hub: RunCommand, team: Team) -> None:
    begun = datetime(2026, 3, 1, tzinfo=UTC)
    job = make_job(team, created_at=begun, started_at=begun + timedelta(seconds=90))
    ended = {"state": "lost", "finished_at": begun + timedelta(hours=2)}
    attempt = make_attempt(job, make_worker("gpu-1"), assigned_at=begun, **ended)
    attempt.devices.add(attempt.worker.devices.get(), through_defaults={"released_at": ended["finished_at"]})
    table = hub("usage", "--month", "2026-03", "--by", "job").out.splitlines()
    assert table[1].split()[-6:] == ["train", "0.00", "2.00", "1", "90", "s"]
    assert table[-1] == "2026-03: 0.00 GPU hours, 2.00 CPU hours."
    heading, line = hub("usage", "--month", "2026-03", "--by", "device", "--csv").out.splitlines()
    assert heading == "month,worker,device,gpu_seconds,cpu_seconds,jobs,mean_wait_seconds"
    assert line == '2026-03,gpu-1,"0: A processor, 2 cores",0.0,7200.0,1,'
    assert hub("usage", "--month", "march", "--json").error["code"] == "invalid_month"
    assert hub("usage", "--all-teams", "--json").error["code"] == "forbidden"


def test_workers_are_drained_and_resumed(hub: RunCommand, team: Team) -> None:
    make_worker("gpu-1")
    assert hub("workers", "drain", "gpu-1").out.startswith("gpu-1 is drained: ")
    assert hub("workers", "resume", "gpu-1", "--json").json["health"] == "healthy"
    assert hub("workers", "drain", "no-such").code == 3


# ---- pull


def test_pull_makes_a_whole_folder(hub: RunCommand, team: Team) -> None:
    version = make_adapter_version(team)
    answer = hub("adapters", "pull", "tickets-tiny")
    assert (answer.code, answer.out) == (0, "tickets-tiny-v1\n")
    names = sorted(path.name for path in Path("tickets-tiny-v1").iterdir())
    assert names == [entry.path for entry in version.manifest()]
    again = hub("adapters", "pull", f"{version.adapter_id}:1", "--output", "tickets-tiny-v1", "--json")
    assert again.json["folder"].endswith("/tickets-tiny-v1")


def test_pull_leaves_other_folders_alone(hub: RunCommand, team: Team) -> None:
    make_adapter_version(team)
    Path("mine").mkdir()
    Path("mine/notes").write_text("x")
    answer = hub("adapters", "pull", "tickets-tiny:1", "--output", "mine", "--json")
    assert (answer.code, answer.error["code"]) == (3, "target_exists")
    assert [path.name for path in Path("mine").iterdir()] == ["notes"]


def test_a_folder_that_cannot_be_written_is_named(hub: RunCommand, team: Team) -> None:
    make_adapter_version(team)
    Path("file").write_text("x")
    answer = hub("adapters", "pull", "tickets-tiny", "--output", "file/adapter")
    assert answer.code == 3
    assert "cannot be written" in answer.err


def test_an_interrupted_pull_goes_on_with_the_next_file(
    api: Hub, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_adapter_version(team)
    target = tmp_path / "adapter"
    fetched: list[str] = []
    stream = httpx.Client.stream

    def note(client: httpx.Client, method: str, url: str, **options: object) -> object:
        fetched.append(url.rsplit("/", 1)[-1])
        return stream(client, method, url, **options)  # type: ignore[arg-type]

    def interrupt(path: str, size_bytes: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(httpx.Client, "stream", note)
    with pytest.raises(KeyboardInterrupt):
        api.pull("tickets-tiny", output=target, report=interrupt)
    assert not target.exists()
    assert api.pull("tickets-tiny", output=target) == target
    assert fetched == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_spoilt_download_is_never_shown_as_the_adapter(api: Hub, team: Team, tmp_path: Path) -> None:
    version = make_adapter_version(team)
    folder = shared_store(settings.ARTIFACT_URL).local_folder(version.artifact_prefix)
    assert folder is not None
    (folder / "adapter_model.safetensors").write_bytes(bytes(4096))
    with pytest.raises(HubError) as caught:
        api.pull("tickets-tiny", output=tmp_path / "adapter")
    assert caught.value.code == "download_failed"
    assert "adapter_model.safetensors is not the file that the hub lists, and was deleted" in caught.value.message
    assert "does not match its SHA-256" in caught.value.message
    assert not (tmp_path / "adapter").exists()
    assert not [path for path in tmp_path.rglob("*") if "safetensors" in path.name]


def test_a_broken_pull_resumes_in_the_middle_of_a_file(
    api: Hub, team: Team, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that a killed command left; a part that is not of the file is noticed, and fetched again."""
    version = make_adapter_version(team)
    target = tmp_path / "adapter"
    partial = tmp_path / f".adapter.{version.adapter_id}-v1.partial"
    partial.mkdir()
    part = partial / "adapter_model.safetensors.part"
    with shared_store(settings.ARTIFACT_URL).open(f"{version.artifact_prefix}/adapter_model.safetensors") as file:
        whole = file.read()
    part.write_bytes(whole[:1000])
    asked: list[str | None] = []
    stream = httpx.Client.stream

    def note(client: httpx.Client, method: str, url: str, **options: Any) -> object:
        asked.append(options.get("headers", {}).get("Range"))
        return stream(client, method, url, **options)

    monkeypatch.setattr(httpx.Client, "stream", note)
    api.pull("tickets-tiny", output=target)
    assert asked == [None, "bytes=1000-"]
    assert (target / "adapter_model.safetensors").read_bytes() == whole

    shutil.rmtree(target)
    partial.mkdir()
    part.write_bytes(b"something else")
    monkeypatch.setattr("tenacity.nap.time.sleep", lambda seconds: None)
    api.pull("tickets-tiny", output=target)
    assert asked[2:] == [None, "bytes=14-", None]
    assert (target / "adapter_model.safetensors").read_bytes() == whole


def test_an_unknown_adapter_is_named(hub: RunCommand) -> None:
    assert hub("adapters", "pull", "nope", "--json").error["code"] == "unknown_adapter"
    assert hub("adapters", "list", "--json").json == []


def test_a_job_is_printed_as_the_recipe_that_it_was(hub: RunCommand, team: Team) -> None:
    job = make_job(team)
    answer = hub("jobs", "recipe", job.pk)
    assert TrainingSpec.model_validate(yaml.safe_load(answer.out)) == job.training_spec()
    Job.objects.filter(pk=job.pk).update(kind="evaluate", spec={"max_rows": 5})
    assert hub("jobs", "recipe", job.pk, "--json").error["code"] == "no_recipe"
