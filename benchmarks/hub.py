"""A hub's memory at rest, and its overhead in training: one recipe with `finetune-hub train` and as a job, alternating.

    python -m benchmarks.hub [--idle-minutes 60]
    python -m benchmarks.hub --model FOLDER [--rows gsm8k.jsonl] [--count 64] [--rounds 3] [--threads 2]

Starts its own hub (embedded, one worker with one CPU device), measures the memory of each part, and stops it at the
end. With a model it also runs jobs. It measures:
    claimed     from submission to the worker's claim, by the database's clock, for jobs that are submitted at various
                moments and cancelled once they are claimed
    first step  from the start of the command, or from submission, to the end of the first optimizer step
    whole       to the end of the command, or to the job's success: checked, published and recorded
The difference is the hub's overhead. Both reload and verify the adapter before they succeed. A job is also checked,
placed, hashed, uploaded to the artifact store and recorded; its libraries for verification are loaded during training,
those of the command after it.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import psycopg
import yaml
from psycopg.rows import dict_row

from benchmarks.engine import cpu_name
from benchmarks.resting import memory_of_hub, print_table
from benchmarks.rows import write_rows
from benchmarks.running_hub import COMMAND, RunningHub, clean_environment, part_of
from finetune_hub.cli.client import Hub

LOOK_SECONDS = 0.02
SETTLE_SECONDS = 10.0  # By then each of control's frequent rounds has run.
ENDED = ("succeeded", "failed", "cancelled")
CLAIMED = """
    SELECT extract(epoch FROM attempt.started_at - job.created_at)
    FROM jobs_attempt attempt JOIN jobs_job job ON job.id = attempt.job_id
    WHERE job.id = %s AND attempt.started_at IS NOT NULL
"""


@dataclass(frozen=True)
class Measured:
    """One run; seconds since it was requested."""

    first_step: float
    whole: float


def main() -> None:
    options = parse()
    print(f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores, {options.threads} threads")
    with tempfile.TemporaryDirectory(prefix="fh-bench-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # As root, Postgres runs as another user and passes through.
        hub = RunningHub(folder / "home", clean_environment() | {"OMP_NUM_THREADS": str(options.threads)})
        try:
            hub.start()
            resting = measure_rest(hub, options.idle_minutes)
            commands, jobs = measure_jobs(hub, options, folder) if options.model else ([], [])
            claims = measure_claims(hub, options.claims) if options.model else []
        finally:
            hub.stop()
    if jobs:
        report(commands, jobs, claims)
    if options.json:
        options.json.write_text(json.dumps(figures(resting, commands, jobs, claims), indent=2))


def measure_rest(hub: RunningHub, idle_minutes: float) -> dict[str, int]:
    """Return each part's bytes at the start; the table gets another column after `idle_minutes` without jobs."""
    time.sleep(SETTLE_SECONDS)
    columns = {"at its start": memory_of_hub(hub.status())}
    if idle_minutes:
        print(f"at its start: {sum(columns['at its start'].values()) / 1e6:.0f} MB", flush=True)
        time.sleep(60 * idle_minutes)
        columns[f"after {idle_minutes:g} idle minutes"] = memory_of_hub(hub.status())
    print_table(columns)
    return columns["at its start"]


def measure_jobs(hub: RunningHub, options: argparse.Namespace, folder: Path) -> tuple[list[Measured], list[Measured]]:
    """Run the rounds: a command, then a job."""
    rows = write_rows(folder / "rows.jsonl", options.count, options.rows)
    shutil.copytree(options.model, hub.home / "models" / "bench")
    commands, jobs = [], []
    with hub.client() as client:
        prepare(client, rows)
        for number in range(options.rounds):
            commands.append(run_command(folder / f"run-{number}", options.model, rows, hub.environment))
            show(f"round {number + 1}, command", commands[-1])
            jobs.append(run_job(client, hub, f"round-{number}"))
            show(f"round {number + 1}, job", jobs[-1])
    return commands, jobs


def prepare(client: Hub, rows: Path) -> None:
    job_id = part_of(client.import_base_model("bench", "folder:bench"), "job_id")
    *_, last = client.watch(job_id)
    if part_of(last.job, "state") != "succeeded":
        raise SystemExit(f"The base model was not imported: {part_of(last.job, 'failure')}")
    client.push_dataset(rows, "rows")


def recipe(base_model: str, dataset: dict[str, str]) -> dict[str, Any]:
    return {
        "base_model": base_model,
        "dataset": dataset,
        "method": {"type": "lora", "rank": 16},
        "training": {"epochs": 1, "micro_batch_size": 4, "max_seq_len": 1024},
        "runtime": {"dtype": "bfloat16", "device": "cpu"},
    }


def run_command(output: Path, model: Path, rows: Path, environment: dict[str, str]) -> Measured:
    document = recipe(str(model.resolve()), {"path": str(rows)})
    del document["runtime"]["device"]
    file = output.with_suffix(".yaml")
    file.write_text(yaml.safe_dump(document))
    began = time.time()
    command = [*COMMAND, "train", str(file), "--output", str(output), "--device", "cpu", "--json"]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    ended = time.time()
    step = first_step(output)
    assert step is not None
    return Measured(step - began, ended - began)


def run_job(client: Hub, hub: RunningHub, adapter: str) -> Measured:
    spec = recipe("bench", {"name": "rows"}) | {"adapter_name": adapter}
    began = time.time()
    job_id = part_of(client.submit(spec), "id")
    step: float | None = None
    url = hub.variables()["DATABASE_URL"]
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as database:
        while True:
            step = step or first_step(hub.home / "work")
            job = database.execute("SELECT state FROM jobs_job WHERE id = %s", [job_id]).fetchone()
            assert job is not None
            if job["state"] in ENDED:
                break
            time.sleep(LOOK_SECONDS)
        ended = time.time()
        attempts = database.execute("SELECT 1 FROM jobs_attempt WHERE job_id = %s", [job_id]).fetchall()
    if job["state"] != "succeeded" or step is None or len(attempts) != 1:
        raise SystemExit(f"Job {job_id} {job['state']} in {len(attempts)} attempts")
    return Measured(step - began, ended - began)


def first_step(folder: Path) -> float | None:
    """Return the Unix time at which the only run in the folder ended its first step; None if it has not yet."""
    for file in folder.rglob("events.jsonl"):
        for line in file.read_text().splitlines():
            event = json.loads(line)
            if event["type"] == "step":
                return float(event["at"])
    return None


def show(name: str, run: Measured) -> None:
    print(f"{name}: first step after {run.first_step:.2f} s, whole {run.whole:.2f} s", flush=True)


def measure_claims(hub: RunningHub, count: int) -> list[float]:
    """Return seconds from submission to claim, at moments that do not always coincide with the hub's own rounds."""
    pauses, waits = Random(7), []
    with hub.client() as client, psycopg.connect(hub.variables()["DATABASE_URL"], autocommit=True) as database:
        for number in range(count):
            time.sleep(pauses.uniform(0.2, 2.2))
            spec = recipe("bench", {"name": "rows"}) | {"adapter_name": f"claim-{number}"}
            job_id = part_of(client.submit(spec), "id")
            while (found := database.execute(CLAIMED, [job_id]).fetchone()) is None:
                time.sleep(LOOK_SECONDS)
            waits.append(float(found[0]))
            client.cancel(job_id)
            *_, _last = client.watch(job_id)
    print(f"claimed after {min(waits):.3f} to {max(waits):.3f} s, median {median(waits):.3f}", flush=True)
    return waits


def report(commands: list[Measured], jobs: list[Measured], claims: list[float]) -> None:
    """Print medians, and the medians of the rounds' differences."""
    pairs = list(zip(commands, jobs, strict=True))
    print("\n| seconds, median | command | job | difference |\n|---|---|---|---|")
    print(f"| sent to claimed | | {median(claims):.3f} | |")
    for title, pick in (("first optimizer step", "first_step"), ("whole", "whole")):
        ours, theirs = ([getattr(run, pick) for run in side] for side in (commands, jobs))
        difference = median(getattr(job, pick) - getattr(command, pick) for command, job in pairs)
        print(f"| {title} | {median(ours):.2f} | {median(theirs):.2f} | {difference:+.2f} |")
    allowed = median(0.03 * command.whole + 3 for command in commands)
    print(f"\nAllowed for the whole: 3% + 3 s = {allowed:.2f} s.")


def figures(
    resting: dict[str, int], commands: list[Measured], jobs: list[Measured], claims: list[float]
) -> dict[str, list[float]]:
    """Return figures for `benchmarks.compare`, by name and unit, with the rounds' values."""
    values = {f"at rest, {part}: MB": [held / 1e6] for part, held in resting.items()}
    values["at rest, all: MB"] = [sum(resting.values()) / 1e6]
    if jobs:
        values |= {
            "sent to claimed: s": claims,
            "first optimizer step of a job: s": [run.first_step for run in jobs],
            "whole job: s": [run.whole for run in jobs],
            "whole command: s": [run.whole for run in commands],
        }
    return values


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--model", type=Path, help="a base model in transformers' format; without one, only memory at rest is measured"
    )
    parser.add_argument(
        "--idle-minutes", type=float, default=0.0, help="measure the memory again after this many minutes"
    )
    parser.add_argument("--rows", type=Path, help="JSONL with question and answer; generated by default")
    parser.add_argument("--count", type=int, default=64, help="rows to train on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--claims", type=int, default=12, help="jobs to submit for measuring the time to claim")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the figures to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
