"""The hub's API for Python programs: what the command line and the demo are made of. Needs httpx and nothing of Django.

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
from finetune_hub.spec.files import FileEntry

if TYPE_CHECKING:
    from finetune_hub.scheduling.plan_answer import PlanAnswer
    from finetune_hub.scheduling.presets import Preset

# A training spec or a part of one, as its author wrote it: what is wrong in it, the hub says.
Document = dict[str, Any]

JSON_BODY = {"Content-Type": "application/json"}
ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class JobLook:
    """One look at a job, with what is new since the look before."""

    job: JobDetail
    events: list[JobEvent]
    points: list[MetricPoint]
    newest: MetricPoint | None  # The newest step's point, looks before this one included.

    @property
    def has_ended(self) -> bool:
        return self.job.state in ENDED_STATES


class Hub(DataClient):
    """One hub, as the user and team of a token. Every method raises `HubError`."""

    def me(self) -> Me:
        """Who the token is: user, team, role."""
        return self._get(Me, "me")

    # ---- the team's Hugging Face token

    def huggingface_token(self) -> HuggingFaceToken:
        """Whether there is one, and who set it."""
        return self._get(HuggingFaceToken, "huggingface-token")

    def set_huggingface_token(self, token: str) -> HuggingFaceToken:
        """Set or replace it; it is never shown again."""
        return self._ask(HuggingFaceToken, "PUT", "huggingface-token", json={"token": token})

    def remove_huggingface_token(self) -> HuggingFaceToken:
        """Forget it."""
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
        """Submit a training: a `TrainingSpec` as a document.

        Args:
            after: a job's id; this one starts once that has succeeded.
            allow_unfit: although it fits no device.
        """
        place = {"priority": priority, "after": after}
        spec = {**spec, **{name: value for name, value in place.items() if value}}
        headers = JSON_BODY if idempotency_key is None else JSON_BODY | {"Idempotency-Key": idempotency_key}
        # `default`: YAML turns some texts into dates, which the service then refuses by name.
        params = {"allow_unfit": "true"} if allow_unfit else {}
        content = json.dumps(spec, default=str)
        return self._ask(JobDetail, "POST", "jobs", content=content, headers=headers, params=params)

    def submit_of_kind(self, kind: str, options: Document, *, idempotency_key: str | None = None) -> JobDetail:
        """Submit a job of a kind that declares its options, such as `evaluate`."""
        headers = JSON_BODY if idempotency_key is None else JSON_BODY | {"Idempotency-Key": idempotency_key}
        content = json.dumps(options, default=str)
        return self._ask(JobDetail, "POST", f"job-kinds/{quote(kind, safe='')}", content=content, headers=headers)

    def plan(self, spec: Document) -> PlanAnswer:
        """Whether a training would fit, where, and what would fit instead; submits nothing."""
        from finetune_hub.scheduling.plan_answer import PlanAnswer

        return self._ask(PlanAnswer, "POST", "plans", content=json.dumps(spec, default=str), headers=JSON_BODY)

    def presets(self, base_model: str, datasets: list[Document], names: list[str] | None = None) -> list[Preset]:
        """Trainings filled in for datasets (`{"name": …}`) and a base model, each value with its reason."""
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
        """Submit an evaluation: answer the dataset's rows with and without the adapter and count exact matches."""
        body = {
            "adapter": adapter,
            "adapter_version": adapter_version,
            "dataset": dataset,
            "max_rows": max_rows,
            "max_new_tokens": max_new_tokens,
        }
        return self._ask(JobDetail, "POST", "evaluations", json=body)

    def jobs(self, limit: int = 50) -> list[Job]:
        """The newest jobs."""
        return self._list(Page[Job], "jobs", limit=limit)

    def job(self, job_id: str) -> JobDetail:
        return self._get(JobDetail, f"jobs/{job_id}")

    def cancel(self, job_id: str, reason: str = "") -> JobDetail:
        """Ask the job to end; asking twice changes nothing."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/cancel", json={"reason": reason})

    def pause(self, job_id: str, reason: str = "") -> JobDetail:
        """Let the job rest, after a checkpoint; asking twice changes nothing."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/pause", json={"reason": reason})

    def preempt(self, job_id: str, reason: str = "") -> JobDetail:
        """Take the job's devices back, after a checkpoint; it waits at its old place in line."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/preempt", json={"reason": reason})

    def resume(self, job_id: str, reason: str = "") -> JobDetail:
        """Queue a paused job again; asking twice changes nothing."""
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/resume", json={"reason": reason})

    def retry(self, job_id: str, *, from_step: int | None = None, reason: str = "") -> JobDetail:
        """Run a failed or cancelled job again, from its newest checkpoint or from that of a step; 0: from nothing."""
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
        """Submit a training like this one; see `submit`.

        Args:
            changes: what differs, as a merge patch of its spec: `{"training": {"epochs": 3}}`.
        """
        params = {"allow_unfit": "true"} if allow_unfit else {}
        body = {"changes": changes or {}, "priority": priority, "after": after}
        content = json.dumps(body, default=str)
        return self._ask(JobDetail, "POST", f"jobs/{job_id}/clone", content=content, headers=JSON_BODY, params=params)

    def change_priority(self, job_id: str, priority: int) -> JobDetail:
        """Give a job that has not ended another place in line."""
        return self._ask(JobDetail, "PATCH", f"jobs/{job_id}", json={"priority": priority})

    def events(self, job_id: str, after: int = 0) -> list[JobEvent]:
        """What happened to the job after the event of this number."""
        return self._all_after(Page[JobEvent], f"jobs/{job_id}/events", after)

    def metrics(self, job_id: str, after: int = 0) -> list[MetricPoint]:
        """The points of the loss curve after this step."""
        return self._all_after(Page[MetricPoint], f"jobs/{job_id}/metrics", after)

    def log(self, job_id: str) -> str:
        """The end of what the engine printed."""
        return self._get(Log, f"jobs/{job_id}/log").text

    def watch(self, job_id: str, *, poll_seconds: float = POLL_SECONDS) -> Iterator[JobLook]:
        """Look at the job again and again until it has ended; the last look is of the ended job.

        Short outages of the web process are waited for, up to a minute.
        """
        last_event = last_step = 0
        newest: MetricPoint | None = None

        def look() -> JobLook:
            # The job comes first: once it has ended, its last event and step are there to be read.
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
        """One version of an adapter, with its files; the newest when no version is given."""
        adapter_id = self._adapter_id(name_or_id)
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
        """Download a version into a folder, which appears whole and verified or not at all.

        Files that an interrupted pull has left are not fetched again. A folder that already holds the version is good.

        Args:
            output: the folder; `NAME-vN` here when left out.
            report: told the path and size of each file, once it is there.
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
                "Move it away, or give another folder with --output.",
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
                "Free some space, or give a folder of your own with --output.",
            ) from error
        return target

    def workers(self) -> list[Worker]:
        return self._list(Page[Worker], "workers")

    def drain_worker(self, name: str) -> Worker:
        """Keep new jobs away from the worker; asking twice changes nothing."""
        return self._ask(Worker, "POST", f"workers/{name}/drain")

    def resume_worker(self, name: str) -> Worker:
        """Let new jobs come to the worker again."""
        return self._ask(Worker, "POST", f"workers/{name}/resume")

    def share_device(self, name: str, kind: str, index: int, is_shared: bool) -> Worker:
        """Let small jobs share a device of the worker, or no longer."""
        return self._ask(Worker, "PATCH", f"workers/{name}/devices/{kind}/{index}", json={"is_shared": is_shared})

    def quotas(self) -> list[Quota]:
        """What the user's teams may use, and what they use; all teams, for the hub's staff."""
        return self._get(Quotas, "quotas").data

    def set_quota(self, team: str, *, max_devices: int | None, max_hours: float | None, weight: float) -> Quota:
        body = {"max_devices": max_devices, "max_hours": max_hours, "weight": weight}
        return self._ask(Quota, "PUT", f"quotas/{team}", json=body)

    def remove_worker(self, name: str) -> None:
        """Take a worker that is gone for good out of the fleet."""
        self._send("DELETE", f"workers/{name}")

    def release_device(self, worker: str, kind: str, index: int) -> Worker:
        """End the quarantine of a device that was fixed; asking twice changes nothing."""
        return self._ask(Worker, "POST", f"workers/{worker}/devices/{kind}/{index}/release")

    def usage(self, month: str | None = None, *, by: str = "user", all_teams: bool = False) -> Usage:
        """How long devices were held in a month (`2026-11`), by team, user, job or device."""
        query = {"by": by} | ({"month": month} if month else {}) | ({"all_teams": "true"} if all_teams else {})
        return self._get(Usage, "usage", **query)

    def _adapter_id(self, name_or_id: str) -> str:
        if name_or_id.startswith("ad-"):
            return name_or_id
        found = self.adapters(name_or_id)
        if len(found) == 1:
            return found[0].id
        if found:
            ids = ", ".join(f"{adapter.id} (over {adapter.base_model})" for adapter in found)
            raise HubError(
                "ambiguous_adapter",
                f"Several adapters are named {name_or_id!r}, over different base models.",
                f"Give the id of one of them: {ids}.",
            )
        raise HubError(
            "unknown_adapter",
            f"There is no adapter named {name_or_id!r}.",
            "See `finetune-hub adapters list`.",
        )
