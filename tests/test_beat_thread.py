"""`--beat-thread`: a worker that sends its own rounds, and ends when it cannot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# A worker of its own app, so that what goes round is the test's; Celery's broker in memory needs no server.
PROGRAM = """
import sys
from celery import Celery
from celery.exceptions import WorkerShutdown
from finetune_hub.beat_thread import BeatThread

app = Celery("clock", broker="memory://")
app.steps["worker"].add(BeatThread)
app.conf.beat_schedule = {"tick": {"task": "tick", "schedule": 0.1}}
ticks = []

@app.task(name="tick")
def tick():
    ticks.append(1)
    if len(ticks) == 3:
        raise WorkerShutdown(0)

worker = app.WorkController(pool="solo", beat_thread=True, schedule_filename=sys.argv[1])
worker.start()
print(len(ticks))
"""


def run_clock(schedule: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", PROGRAM, str(schedule)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_a_worker_sends_its_own_rounds_and_stops(tmp_path: Path) -> None:
    ran = run_clock(tmp_path / "schedule")
    assert (ran.returncode, ran.stdout) == (0, "3\n"), ran.stderr
    assert list(tmp_path.glob("schedule*")), "the dates of the last rounds outlive a restart"


def test_a_beat_that_fails_ends_its_worker(tmp_path: Path) -> None:
    ran = run_clock(tmp_path / "no such folder" / "schedule")
    assert ran.returncode == 1
    assert "this worker exits" in ran.stderr
