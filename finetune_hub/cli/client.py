"""The hub's API for Python programs: what the command line and the demo are made of. Needs httpx and nothing of Django.

hub = Hub("http://127.0.0.1:8000", token)
hub.push_dataset(Path("tickets.jsonl"), "tickets")
job = hub.submit({"base_model": "smollm2-135m-instruct", "dataset": {"name": "tickets"}})
for progress in hub.watch(job["id"]):
    print(progress.job["step"], progress.loss)
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from finetune_hub.cli.connection import (
    OUTAGE_SECONDS,
    POLL_SECONDS,
    UPLOAD_TIMEOUT_SECONDS,
    HubConnection,
    HubError,
    Row,
    is_whole,
)
from finetune_hub.spec.files import FileEntry

WHOLE_BYTES = 32 << 20  # Larger files are sent in parts.
JSON_BODY = {"Content-Type": "application/json"}
ENDED_STATES = frozenset({"succeeded", "failed", "cancelled"})


@dataclass(frozen=True)
class Progress:
    """One look at a job, with what is new since the look before."""

    job: Row
    events: list[Row]
    points: list[Row]
    newest: Row | None  # The newest step's point, looks before this one included.

    @property
    def has_ended(self) -> bool:
        return self.job["state"] in ENDED_STATES


class Hub(HubConnection):
    """One hub, as the user and team of a token. Every method raises `HubError`."""

    def me(self) -> Row:
        """Who the token is: user, team, role."""
        return self._get("me")

    # ---- datasets and base models

    def push_dataset(
        self, path: Path, name: str, *, mapping: dict[str, str] | None = None, quarantine: bool = False
    ) -> Row:
        """Upload a file as the newest version of a dataset; the version it is, also when its content was known.

        Args:
            mapping: column → part, where the columns belong to no known format.
            quarantine: go on with the good rows, and set the others aside.
        A file of more than 32 MiB goes in parts: a push that broke off goes on where it was when it is called again.
        """
        data = {"name": name, "on_error": "quarantine" if quarantine else "refuse"}
        if mapping:
            data["mapping"] = json.dumps(mapping)
        if path.stat().st_size > WHOLE_BYTES:
            data["upload"] = self._upload_in_parts(path)
            parts = {key: (None, value) for key, value in data.items()}
            return self._send("POST", "datasets", files=parts, timeout=UPLOAD_TIMEOUT_SECONDS)
        with path.open("rb") as file:
            return self._send(
                "POST",
                "datasets",
                data=data,
                files={"file": (path.name, file)},
                timeout=UPLOAD_TIMEOUT_SECONDS,
            )

    def import_dataset(
        self, name: str, source: str, *, mapping: dict[str, str] | None = None, quarantine: bool = False
    ) -> Row:
        """Start to fetch a dataset's newest version, `hf:owner/name@revision:split` or `https://…`; the job."""
        on_error = "quarantine" if quarantine else "refuse"
        body = {"name": name, "source": source, "mapping": mapping, "on_error": on_error}
        return self._send("POST", "datasets/import", json=body)

    def datasets(self) -> list[Row]:
        return self._list("datasets")

    def dataset_version(self, reference: str) -> Row:
        """One version by `NAME` or `NAME:VERSION`, the newest when it names none."""
        name, _, number = reference.partition(":")
        found = self._list("datasets", name=name)
        if not found or (number and not number.isdigit()):
            raise HubError(
                "unknown_dataset", f"There is no dataset {reference!r}.", "See `finetune-hub datasets list`."
            )
        dataset = found[0]
        return self._get(f"datasets/{dataset['id']}/versions/{number or dataset['newest_number']}")

    def preview(self, version: Row, base_model: str, row: int, max_seq_len: int) -> Row:
        """One row of a dataset version through a base model's template and tokenizer, token by token."""
        path = f"datasets/{version['id']}/versions/{version['number']}/preview"
        return self._get(path, base_model=base_model, row=row, max_seq_len=max_seq_len)

    def compare(self, version: Row, other: str) -> Row:
        """What came, went and changed since another version, `NAME` or `NAME:VERSION`, and what both ask."""
        return self._get(f"datasets/{version['id']}/versions/{version['number']}/comparison", **{"with": other})

    def split(self, version: Row, *, fraction: float, seed: int) -> Row:
        """Hold rows out: the versions made, `train` and `held_out`."""
        body = {"fraction": fraction, "seed": seed}
        return self._send("POST", f"datasets/{version['id']}/versions/{version['number']}/split", json=body)

    def find_rows(self, version: Row, words: str = "", *, limit: int = 20) -> list[Row]:
        """The first rows that hold the words, with their numbers."""
        rows: list[Row] = []
        after: int | None = 0
        while after is not None and len(rows) < limit:
            path = f"datasets/{version['id']}/versions/{version['number']}/rows"
            page = self._get(path, q=words, after=after)
            rows += page["rows"]
            after = page["next"]
        return rows[:limit]

    def delete_dataset_version(self, version: Row) -> Row:
        """Delete the version's rows and files; its hash and lineage stay."""
        return self._send("DELETE", f"datasets/{version['id']}/versions/{version['number']}")

    def token_statistics(self, version: Row, base_model: str, max_seq_len: int) -> Row:
        """How long the rows of a dataset version are for a base model, and what is cut off them."""
        path = f"datasets/{version['id']}/versions/{version['number']}/tokens"
        return self._get(path, base_model=base_model, max_seq_len=max_seq_len)

    def import_base_model(self, name: str, source: str | None = None) -> Row:
        """Start an import; `job_id` in the answer is the job to wait for."""
        return self._send("POST", "base-models", json={"name": name, "source": source})

    def push_base_model(self, path: Path, name: str) -> Row:
        """Upload a GGUF file in parts and start its import; a push that broke off goes on when it is called again."""
        return self._send("POST", "base-models", json={"name": name, "upload": self._upload_in_parts(path)})

    def base_models(self, name: str | None = None) -> list[Row]:
        return self._list("base-models", name=name)

    def base_model(self, base_model_id: str) -> Row:
        """Facts, files, and where they lie."""
        return self._get(f"base-models/{base_model_id}")

    def chat_templates(self, base_model: str) -> list[Row]:
        """The known chat templates, those that fit the model's tokenizer first."""
        found: list[Row] = self._get(f"base-models/{self._base_model_id(base_model)}/chat-template")["data"]
        return found

    def set_chat_template(self, base_model: str, *, template: str | None = None, source: str | None = None) -> Row:
        """Give a known template, or a Jinja text, to a base model that came without one."""
        body = {"template": template, "source": source}
        return self._send("POST", f"base-models/{self._base_model_id(base_model)}/chat-template", json=body)

    def aliases(self) -> list[Row]:
        """The other names of base models."""
        return self._list("base-model-aliases")

    def set_alias(self, alias: str, base_model: str) -> Row:
        """Let the alias stand for the base model wherever one is named."""
        return self._send("POST", "base-model-aliases", json={"alias": alias, "base_model": base_model})

    def remove_alias(self, alias: str) -> Row:
        return self._send("DELETE", f"base-model-aliases/{quote(alias)}")

    def _base_model_id(self, name: str) -> str:
        found = self.base_models(name)
        if not found:
            raise HubError(
                "unknown_base_model", f"There is no base model {name!r}.", "See `finetune-hub base-models list`."
            )
        return str(found[0]["id"])

    # ---- the team's token of the Hugging Face hub

    def hub_token(self) -> Row:
        """Whether there is one, and who set it."""
        return self._get("hub-token")

    def set_hub_token(self, token: str) -> Row:
        """Set or replace it; it is never shown again."""
        return self._send("PUT", "hub-token", json={"token": token})

    def remove_hub_token(self) -> Row:
        """Forget it."""
        return self._send("DELETE", "hub-token")

    # ---- jobs

    def submit(
        self,
        spec: Row,
        *,
        priority: int = 0,
        after: str | None = None,
        idempotency_key: str | None = None,
        allow_unfit: bool = False,
    ) -> Row:
        """Submit a training: a `TrainingSpec` as a dictionary.

        Args:
            after: a job's id; this one starts once that has succeeded.
            allow_unfit: although it fits no device.
        """
        place = {"priority": priority, "after": after}
        spec = {**spec, **{name: value for name, value in place.items() if value}}
        headers = JSON_BODY if idempotency_key is None else JSON_BODY | {"Idempotency-Key": idempotency_key}
        # `default`: YAML turns some texts into dates, which the service then refuses by name.
        params = {"allow_unfit": "true"} if allow_unfit else {}
        return self._send("POST", "jobs", content=json.dumps(spec, default=str), headers=headers, params=params)

    def plan(self, spec: Row) -> Row:
        """Whether a training would fit, where, and what would fit instead; submits nothing."""
        return self._send("POST", "plans", content=json.dumps(spec, default=str), headers=JSON_BODY)

    def presets(self, base_model: str, datasets: list[Row], names: list[str] | None = None) -> list[Row]:
        """Trainings filled in for datasets (`{"name": …}`) and a base model, each value with its reason."""
        body = {"base_model": base_model, "datasets": datasets, "presets": names}
        return list(self._send("POST", "presets", json=body)["presets"])

    def evaluate(
        self,
        adapter: str,
        dataset: str,
        *,
        adapter_version: int | None = None,
        max_rows: int | None = None,
        max_new_tokens: int = 256,
    ) -> Row:
        """Submit an evaluation: answer the dataset's rows with and without the adapter and count exact matches."""
        body = {
            "adapter": adapter,
            "adapter_version": adapter_version,
            "dataset": dataset,
            "max_rows": max_rows,
            "max_new_tokens": max_new_tokens,
        }
        return self._send("POST", "evaluations", json=body)

    def jobs(self, limit: int = 50) -> list[Row]:
        """The newest jobs."""
        return self._list("jobs", limit=limit)

    def job(self, job_id: str) -> Row:
        return self._get(f"jobs/{job_id}")

    def cancel(self, job_id: str, reason: str = "") -> Row:
        """Ask the job to end; asking twice changes nothing."""
        return self._send("POST", f"jobs/{job_id}/cancel", json={"reason": reason})

    def pause(self, job_id: str, reason: str = "") -> Row:
        """Let the job rest, after a checkpoint; asking twice changes nothing."""
        return self._send("POST", f"jobs/{job_id}/pause", json={"reason": reason})

    def preempt(self, job_id: str, reason: str = "") -> Row:
        """Take the job's devices back, after a checkpoint; it waits at its old place in line."""
        return self._send("POST", f"jobs/{job_id}/preempt", json={"reason": reason})

    def resume(self, job_id: str, reason: str = "") -> Row:
        """Queue a paused job again; asking twice changes nothing."""
        return self._send("POST", f"jobs/{job_id}/resume", json={"reason": reason})

    def retry(self, job_id: str, *, from_step: int | None = None, reason: str = "") -> Row:
        """Run a failed or cancelled job again, from its newest checkpoint or from that of a step; 0: from nothing."""
        return self._send("POST", f"jobs/{job_id}/retry", json={"from_step": from_step, "reason": reason})

    def clone(
        self,
        job_id: str,
        changes: Row | None = None,
        *,
        priority: int = 0,
        after: str | None = None,
        allow_unfit: bool = False,
    ) -> Row:
        """Submit a training like this one; see `submit`.

        Args:
            changes: what differs, as a merge patch of its spec: `{"training": {"epochs": 3}}`.
        """
        params = {"allow_unfit": "true"} if allow_unfit else {}
        body = {"changes": changes or {}, "priority": priority, "after": after}
        content = json.dumps(body, default=str)
        return self._send("POST", f"jobs/{job_id}/clone", content=content, headers=JSON_BODY, params=params)

    def change_priority(self, job_id: str, priority: int) -> Row:
        """Give a job that has not ended another place in line."""
        return self._send("PATCH", f"jobs/{job_id}", json={"priority": priority})

    def events(self, job_id: str, after: int = 0) -> list[Row]:
        """What happened to the job after the event of this number."""
        return self._all_after(f"jobs/{job_id}/events", after)

    def metrics(self, job_id: str, after: int = 0) -> list[Row]:
        """The points of the loss curve after this step."""
        return self._all_after(f"jobs/{job_id}/metrics", after)

    def log(self, job_id: str) -> str:
        """The end of what the engine printed."""
        return str(self._get(f"jobs/{job_id}/log")["text"])

    def watch(self, job_id: str, *, poll_seconds: float = POLL_SECONDS) -> Iterator[Progress]:
        """Look at the job again and again until it has ended; the last look is of the ended job.

        Short outages of the web process are waited for, up to a minute.
        """
        last_event = last_step = 0
        newest: Row | None = None
        answered_at = time.monotonic()
        while True:
            try:
                # The job comes first: once it has ended, its last event and step are there to be read.
                job = self.job(job_id)
                points, events = self.metrics(job_id, last_step), self.events(job_id, last_event)
            except HubError as error:
                if not error.is_outage or time.monotonic() - answered_at > OUTAGE_SECONDS:
                    raise
                time.sleep(poll_seconds)
                continue
            answered_at = time.monotonic()
            last_event = events[-1]["number"] if events else last_event
            if points:
                newest = points[-1]
                last_step = newest["step"]
            progress = Progress(job, events, points, newest)
            yield progress
            if progress.has_ended:
                return
            time.sleep(poll_seconds)

    # ---- adapters and workers

    def adapters(self, name: str | None = None) -> list[Row]:
        return self._list("adapters", name=name)

    def adapter(self, name_or_id: str, version: int | None = None) -> Row:
        """One version of an adapter, with its files; the newest when no version is given."""
        adapter_id = self._adapter_id(name_or_id)
        number = version or self._get(f"adapters/{adapter_id}")["versions"][0]["number"]
        return self._get(f"adapters/{adapter_id}/versions/{number}")

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
        target = output or Path(f"{found['name']}-v{found['number']}")
        entries = [FileEntry.model_validate(file) for file in found["files"]]
        if target.exists():
            if is_whole(target, entries):
                return target
            raise HubError(
                "target_exists",
                f"{target} exists already and is not this version.",
                "Move it away, or give another folder with --output.",
            )
        partial = target.with_name(f".{target.name}.{found['adapter_id']}-v{found['number']}.partial")
        try:
            for entry in entries:
                if not is_whole(partial, [entry]):
                    self._download(f"adapters/{found['adapter_id']}/versions/{found['number']}/files", entry, partial)
                report(entry.path, entry.size_bytes)
            partial.rename(target)
        except OSError as error:
            raise HubError(
                "file_unwritable",
                f"{error.filename or target} cannot be written: {error.strerror}.",
                "Free some space, or give a folder of your own with --output.",
            ) from error
        return target

    def workers(self) -> list[Row]:
        return self._list("workers")

    def drain_worker(self, name: str) -> Row:
        """Keep new jobs away from the worker; asking twice changes nothing."""
        return self._send("POST", f"workers/{name}/drain")

    def resume_worker(self, name: str) -> Row:
        """Let new jobs come to the worker again."""
        return self._send("POST", f"workers/{name}/resume")

    def share_device(self, name: str, kind: str, index: int, is_shared: bool) -> Row:
        """Let small jobs share a device of the worker, or no longer."""
        return self._send("PATCH", f"workers/{name}/devices/{kind}/{index}", json={"is_shared": is_shared})

    def quotas(self) -> list[Row]:
        """What the user's teams may have, and have; all teams, for the hub's staff."""
        rows: list[Row] = self._get("quotas")["data"]
        return rows

    def set_quota(self, team: str, *, max_devices: int | None, max_hours: float | None, weight: float) -> Row:
        body = {"max_devices": max_devices, "max_hours": max_hours, "weight": weight}
        return self._send("PUT", f"quotas/{team}", json=body)

    def remove_worker(self, name: str) -> None:
        """Take a worker that is gone for good out of the fleet."""
        self._send("DELETE", f"workers/{name}")

    def release_device(self, worker: str, kind: str, index: int) -> Row:
        """End the quarantine of a device that was fixed; asking twice changes nothing."""
        return self._send("POST", f"workers/{worker}/devices/{kind}/{index}/release")

    def usage(self, month: str | None = None, *, by: str = "user", all_teams: bool = False) -> Row:
        """How long devices were held in a month (`2026-11`), by team, user, job or device."""
        query = {"by": by} | ({"month": month} if month else {}) | ({"all_teams": "true"} if all_teams else {})
        return self._get("usage", **query)

    def _adapter_id(self, name_or_id: str) -> str:
        if name_or_id.startswith("ad-"):
            return name_or_id
        found = self.adapters(name_or_id)
        if len(found) == 1:
            return str(found[0]["id"])
        if found:
            ids = ", ".join(f"{adapter['id']} (over {adapter['base_model']})" for adapter in found)
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
