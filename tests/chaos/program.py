"""Submit trainings and let anything die at any moment, by a seed; then look at what is left."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.faults import shuffled
from tests.chaos.findings import findings, leftovers
from tests.chaos.hub_under_fire import HubUnderFire

log = logging.getLogger(__name__)

UNDER_WAY = 4
CANCELLED_SHARE = 0.1
PAUSE_SECONDS = (0.5, 5.0)
END_SECONDS = 600.0
METHODS: list[dict[str, Any]] = [
    {"type": "lora", "rank": 4},
    {"type": "lora", "rank": 4, "use_dora": True},
    {"type": "prompt_tuning", "virtual_tokens": 4},
    {"type": "prefix_tuning", "virtual_tokens": 4},
]


@dataclass
class Outcome:
    """What one run of the program came to."""

    seed: int
    faults: Counter[str] = field(default_factory=Counter)
    jobs: Counter[str] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    findings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def table(self) -> str:
        """For people, in Markdown."""
        lines = [
            f"Seed {self.seed}: {self.faults.total()} faults in {self.seconds / 60:.0f} minutes, "
            f"{self.jobs.total()} trainings, {self.attempts.total()} attempts.",
            "",
            "| fault | times |",
            "|---|---|",
            *(f"| {fault} | {times} |" for fault, times in sorted(self.faults.items())),
            "",
            "| trainings | |",
            "|---|---|",
            *(f"| {state} | {count} |" for state, count in sorted(self.jobs.items())),
            "",
            "| attempts | |",
            "|---|---|",
            *(f"| {state} | {count} |" for state, count in sorted(self.attempts.items())),
            "",
            "Findings: " + ("none." if not self.findings else ""),
            *(f"- {finding}" for finding in self.findings),
        ]
        return "\n".join(lines)


class Program:
    """One run: `count` faults while trainings come and go."""

    def __init__(self, folder: Path, *, seed: int, count: int) -> None:
        self.chance = random.Random(seed)
        self.hub = HubUnderFire(folder)
        self.faults = shuffled(self.chance, count, has_disk=self.hub.far.has_disk)
        self.outcome = Outcome(seed)
        self.recipes: dict[str, str] = {}
        self.cancelled: set[str] = set()

    def run(self) -> Outcome:
        began = time.monotonic()
        try:
            for fault in self.faults:
                self.keep_busy()
                time.sleep(self.chance.uniform(*PAUSE_SECONDS))
                log.info("%.0f s: %s", time.monotonic() - began, fault.__doc__)
                fault(self.hub, self.chance)
                self.hub.tend()
                self.outcome.faults[str(fault.__doc__)] += 1
            log.info("%.0f s: the end of the faults", time.monotonic() - began)
            self.hub.until(lambda: not self.unfinished(), "the end of all jobs", END_SECONDS)
        except TimeoutError as late:
            self.outcome.findings.append(str(late))
        try:
            self.outcome.findings += findings(self.hub, self.recipes, self.cancelled)
            self.count()
        finally:
            self.hub.stop()
            self.outcome.findings += leftovers(self.hub)
            self.hub.close()
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    def keep_busy(self) -> None:
        """As many trainings as the machines can hold, and some that wait; now and then one is cancelled."""
        unfinished = self.unfinished()
        for _ in range(UNDER_WAY - len(unfinished)):
            self.submit()
        if unfinished and self.chance.random() < CANCELLED_SHARE:
            job_id = self.chance.choice(unfinished)
            self.cancelled.add(job_id)
            self.hub.patiently(lambda client: client.cancel(job_id))

    def submit(self) -> None:
        """Asked again until it answers, with one key: the job is there once."""
        number = len(self.recipes)
        method = self.chance.choice(METHODS)
        steps = self.chance.choice([60, 150])
        spec = {
            "base_model": "tiny",
            "dataset": {"name": "rows"},
            "adapter_name": f"adapter-{number}",
            "method": method,
            "training": {
                "epochs": 100,
                "max_steps": steps,
                "micro_batch_size": 2,
                "max_seq_len": 128,
                "checkpoint_every_steps": 10,
            },
            "runtime": {"dtype": "float32"},
        }
        job = self.hub.patiently(lambda client: client.submit(spec, idempotency_key=f"training {number}"))
        self.recipes[job.id] = f"{method}, {steps} steps"

    def unfinished(self) -> list[str]:
        jobs = self.hub.patiently(lambda client: client.jobs(limit=100))
        return sorted(job.id for job in jobs if job.state not in {"succeeded", "failed", "cancelled"})

    def count(self) -> None:
        with self.hub.database() as database:
            for row in database.execute("SELECT state, failure_class FROM jobs_job WHERE kind = 'train'"):
                self.outcome.jobs[" ".join(filter(None, row.values()))] += 1
            for row in database.execute(
                "SELECT a.state, a.failure_class FROM jobs_attempt a JOIN jobs_job j ON j.id = a.job_id "
                "WHERE j.kind = 'train'"
            ):
                self.outcome.attempts[" ".join(filter(None, row.values()))] += 1
