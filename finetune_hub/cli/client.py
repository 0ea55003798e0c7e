"""Python client of the hub's API, used by the command line and the demo. Needs httpx but not Django.

hub = Hub("http://127.0.0.1:8000", token)
hub.push_dataset(Path("tickets.jsonl"), "tickets")
job = hub.submit({"base_model": "smollm2-135m-instruct", "dataset": {"name": "tickets"}})
for progress in hub.watch(job.id):
    print(progress.job.step, progress.newest)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from finetune_hub.cli.answers import (
    Adapter,
    AdapterDetail,
    AdapterVersionDetail,
    HuggingFaceToken,
    Job,
    JobDetail,
    JobEvent,
    Log,
    Me,
    MetricPoint,
    Quota,
    Quotas,
    Usage,
    Worker,
)
from finetune_hub.cli.connection import (
    POLL_SECONDS,
    HubError,
    Page,
    is_whole,
    through_outages,
)
from finetune_hub.cli.data_client import DataClient
from finetune_hub.cli.deletion_client import DeletionClient
from finetune_hub.spec.files import FileEntry

if TYPE_CHECKING:
    from finetune_hub.scheduling.plan_answer import PlanAnswer
    from finetune_hub.scheduling.presets import Preset

# A training spec or a part of one, unvalidated: the hub validates it.
Document = dict[str, Any]

JSON_BODY = {"Content-Type": "application/json"}
ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class JobLook:
    """A snapshot of a job, with its news since the previous one."""

    job: JobDetail
    events: list[JobEvent]
    points: list[MetricPoint]
    newest: MetricPoint | None  # The point of the newest step so far.

    @property
    def has_ended(self) -> bool:
        return self.job.state in ENDED_STATES


class Hub(DataClient, DeletionClient):
    """A hub, accessed with a token. Every method raises `HubError`."""

    def me(self) -> Me:
        """Return the token's user, team and role."""
        return self._get(Me, "me")

    # ---- the team's Hugging Face token

    def huggingface_token(self) -> HuggingFaceToken:
        """Return whether the token is set, and by whom."""
        return self._get(HuggingFaceToken, "huggingface-token")

    def set_huggingface_token(self, token: str) -> HuggingFaceToken:
        """Set or replace the token. It is never shown again."""
        return self._ask(HuggingFaceToken, "PUT", "huggingface-token", json={"token": token})

    def remove_huggingface_token(self) -> HuggingFaceToken:
        """Delete the token."""
        return self._ask(HuggingFaceToken, "DELETE", "huggingface-token")

    # ---- jobs

    def submit(
        self,
        spec: Document,
        *,
        priority: int = 0,
        after: str | None = None,
        idempotency_key: str | None = None,
        allow_unfit: bool = False,
    ) -> JobDetail:
        """Submit a training with a `TrainingSpec` as a document.

        Args:
            after: id of a job that must succeed first.
            allow_unfit: submit even if it fits on no device.
        """
        place = {"priority": priority, "after": after}
        spec = {**spec, **{name: value for name, value in place.items() if value}}
        headers = JSON_BODY if idempotency_key is None else JSON_BODY | {"Idempotency-Key": idempotency_key}
        # `default`: YAML parses some strings as dates, which the hub then refuses by field name.
        params = {"allow_unfit": "true"} if allow_unfit else {}
        content = json.dumps(spec, default=str)
        return self._ask(JobDetail, "POST", "jobs", content=content, headers=headers, params=params)

    def submit_of_kind(self, kind: str, options: Document, *, idempotency_key: str | None = None) -> JobDetail:
        """Submit a job of a kind that declares its options, such as `evaluate`."""
        headers = JSON_BODY if idempotency_key is None else JSON_BODY | {"Idempotency-Key": idempotency_key}
        content = json.dumps(options, default=str)
        return self._ask(JobDetail, "POST", f"job-kinds/{quote(kind, safe='')}", content=content, headers=headers)

    def plan(self, spec: Document) -> PlanAnswer:
        """Plan a training: whether and where it fits, and alternatives. Submits nothing."""
        from finetune_hub.scheduling.plan_answer import PlanAnswer

        return self._ask(PlanAnswer, "POST", "plans", content=json.dumps(spec, default=str), headers=JSON_BODY)

    def presets(self, base_model: str, datasets: list[Document], names: list[str] | None = None) -> list[Preset]:
        """Return suggested trainings for datasets (`{"name": …}`) and a base model, with a reason per value."""
        from finetune_hub.scheduling.presets import PresetsAnswer

        body = {"base_model": base_model, "datasets": datasets, "presets": names}
        return self._ask(PresetsAnswer, "POST", "presets", json=body).presets

    def evaluate(
        self,
        adapter: str,
        dataset: str,
        *,
        adapter_version: int | None = None,
        max_rows: int | None = None,
        max_new_tokens: int = 256,
    ) -> JobDetail:
        """Submit an evaluation: answer rows with and without the adapter and count exact matches."""
        body = {
            "adapter": adapter,
            "adapter_version": adapter_version,
            "dataset": dataset,
            "max_rows": max_rows,
            "max_new_tokens": max_new_tokens,
        }
        return self._ask(JobDetail, "POST", "evaluations", json=body)

    def jobs(self, limit: int = 50) -> list[Job]:
        """Return the newest jobs."""
        return self._list(Page[Job], "jobs", limit=limit)

    def job(self, job_id: str) -> JobDetail:
        return self._get(JobDetail, f"jobs/{job_id}")

    def cancel(self, job_id: str, reason: str = "") -> JobDetail:
        """Cancel the job. Repeating it has no effect."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/cancel", json={"reason": reason})

    def pause(self, job_id: str, reason: str = "") -> JobDetail:
        """Pause the job after a checkpoint. Repeating it has no effect."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/pause", json={"reason": reason})

    def preempt(self, job_id: str, reason: str = "") -> JobDetail:
        """Take back the job's devices after a checkpoint. It keeps its place in the queue."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/preempt", json={"reason": reason})

    def resume(self, job_id: str, reason: str = "") -> JobDetail:
        """Queue a paused job again. Repeating it has no effect."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/resume", json={"reason": reason})

    def retry(self, job_id: str, *, from_step: int | None = None, reason: str = "") -> JobDetail:
        """Run a failed or cancelled job again, from its newest or a chosen checkpoint; step 0: start over."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/retry", json={"from_step": from_step, "reason": reason})

    def clone(
        self,
        job_id: str,
        changes: Document | None = None,
        *,
        priority: int = 0,
        after: str | None = None,
        allow_unfit: bool = False,
    ) -> JobDetail:
        """Submit a copy of this training; see `submit`.

        Args:
            changes: changes to its spec, as a merge patch: `{"training": {"epochs": 3}}`.
        """
        params = {"allow_unfit": "true"} if allow_unfit else {}
        body = {"changes": changes or {}, "priority": priority, "after": after}
        content = json.dumps(body, default=str)
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/clone", content=content, headers=JSON_BODY, params=params)

    def change_priority(self, job_id: str, priority: int) -> JobDetail:
        """Change the priority of a job that has not ended."""
        return self._ask(JobDetail, "PATCH", f"jobs/{job_id}", json={"priority": priority})

    def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """Return the job's events after this number."""
        return self._all_after(Page[JobEvent], f"jobs/{job_id}/events", after)

    def metrics(self, job_id: str, after: int = 0) -> list[MetricPoint]:
        """Return the points of the loss curve after this step."""
        return self._all_after(Page[MetricPoint], f"jobs/{job_id}/metrics", after)

    def log(self, job_id: str) -> str:
        """Return the end of the engine's output."""
        return self._get(Log, f"jobs/{job_id}/log").text

    def watch(self, job_id: str, *, poll_seconds: float = POLL_SECONDS) -> Iterator[JobLook]:
        """Poll the job until it has ended. The last snapshot is of the ended job.

        Waits up to a minute for the web process during short outages.
        """
        last_event = last_step = 0
        newest: MetricPoint | None = None

        def look() -> JobLook:
            # Read the job first: once it has ended, its last event and step are available.
            job = self.job(job_id)
            points, events = self.metrics(job_id, last_step), self.events(job_id, last_event)
            return JobLook(job, events, points, points[-1] if points else newest)

        while True:
            progress = through_outages(poll_seconds)(look)
            newest = progress.newest
            last_step = newest.step if newest else 0
            last_event = progress.events[-1].number if progress.events else last_event
            yield progress
            if progress.has_ended:
                return
            time.sleep(poll_seconds)

    # ---- adapters and workers

    def adapters(self, name: str | None = None) -> list[Adapter]:
        return self._list(Page[Adapter], "adapters", name=name)

    def adapter(self, name_or_id: str, version: int | None = None) -> AdapterVersionDetail:
        """Return one version of an adapter with its files; the newest by default."""
        adapter_id = self.adapter_id(name_or_id)
        number = version or self._get(AdapterDetail, f"adapters/{adapter_id}").versions[0].number
        return self._get(AdapterVersionDetail, f"adapters/{adapter_id}/versions/{number}")

    def pull(
        self,
        name_or_id: str,
        version: int | None = None,
        *,
        output: Path | None = None,
        report: Callable[[str, int], None] = lambda path, size_bytes: None,
    ) -> Path:
        """Download a version into a folder, which only appears when it is complete and verified.

        Files of an interrupted pull are not downloaded again. A folder that already has the version is kept.

        Args:
            output: the folder; `NAME-vN` in the current one by default.
            report: called with path and size of each completed file.
        """
        found = self.adapter(name_or_id, version)
        target = output or Path(f"{found.name}-v{found.number}")
        entries = [FileEntry(path=file.path, size_bytes=file.size_bytes, sha256=file.sha256) for file in found.files]
        if target.exists():
            if is_whole(target, entries):
                return target
            raise HubError(
                "target_exists",
                f"{target} exists already and is not this version.",
                "Move it away or choose another folder with --output.",
            )
        partial = target.with_name(f".{target.name}.{found.adapter_id}-v{found.number}.partial")
        try:
            for entry in entries:
                if not is_whole(partial, [entry]):
                    self._download(f"adapters/{found.adapter_id}/versions/{found.number}/files", entry, partial)
                report(entry.path, entry.size_bytes)
            partial.rename(target)
        except OSError as error:
            raise HubError(
                "file_unwritable",
                f"{error.filename or target} cannot be written: {error.strerror}.",
                "Free some space or choose another folder with --output.",
            ) from error
        return target

    def workers(self) -> list[Worker]:
        return self._list(Page[Worker], "workers")

    def drain_worker(self, name: str) -> Worker:
        """Stop placing new jobs on the worker. Repeating it has no effect."""
        return self._ask(Worker, "POST", f"workers/{name}/drain")

    def resume_worker(self, name: str) -> Worker:
        """Allow new jobs on the worker again."""
        return self._ask(Worker, "POST", f"workers/{name}/resume")

    def share_device(self, name: str, kind: str, index: int, is_shared: bool) -> Worker:
        """Allow or forbid small jobs to share a device of the worker."""
        return self._ask(Worker, "PATCH", f"workers/{name}/devices/{kind}/{index}", json={"is_shared": is_shared})

    def quotas(self) -> list[Quota]:
        """Return quotas and use of the user's teams, or of all teams for the hub's staff."""
        return self._get(Quotas, "quotas").data

    def set_quota(self, team: str, *, max_devices: int | None, max_hours: float | None, weight: float) -> Quota:
        body = {"max_devices": max_devices, "max_hours": max_hours, "weight": weight}
        return self._ask(Quota, "PUT", f"quotas/{team}", json=body)

    def remove_worker(self, name: str) -> None:
        """Remove a worker that is gone for good from the fleet."""
        self._send("DELETE", f"workers/{name}")

    def release_device(self, worker: str, kind: str, index: int) -> Worker:
        """End the quarantine of a repaired device. Repeating it has no effect."""
        return self._ask(Worker, "POST", f"workers/{worker}/devices/{kind}/{index}/release")

    def usage(self, month: str | None = None, *, by: str = "user", all_teams: bool = False) -> Usage:
        """Return how long devices were in use in a month (`2026-11`), by team, user, job or device."""
        query = {"by": by} | ({"month": month} if month else {}) | ({"all_teams": "true"} if all_teams else {})
        return self._get(Usage, "usage", **query)

    def adapter_id(self, name_or_id: str) -> str:
        """Return the id of the team's adapter of this name."""
        if name_or_id.startswith("ad-"):
            return name_or_id
        found = self.adapters(name_or_id)
        if len(found) == 1:
            return found[0].id
        if found:
            ids = ", ".join(f"{adapter.id} (for {adapter.base_model})" for adapter in found)
            raise HubError(
                "ambiguous_adapter",
                f"Several adapters are named {name_or_id!r}, for different base models.",
                f"Use the id of one of them: {ids}.",
            )
        raise HubError(
            "unknown_adapter",
            f"There is no adapter named {name_or_id!r}.",
            "See `finetune-hub adapters list`.",
        )
