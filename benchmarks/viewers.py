"""Cost of many viewers of one job for the web process: memory, threads, database connections, Redis subscriptions.

    python -m benchmarks.viewers [--viewers 1000]

Each viewer has the job's page open, which means one event stream. Then the job's priority is changed twice, and the
time until all viewers have received the change is measured. Traffic uses only loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit

import psycopg
import redis

from benchmarks.engine import cpu_name
from benchmarks.resting import pss_bytes
from benchmarks.running_hub import RunningHub, clean_environment

MB = 1_000_000
SETTLE_SECONDS = 5.0
LONGEST_SECONDS = 120.0
# A paused job, which is never scheduled. Prints its id and the session of a user who may see it.
PAUSED_JOB = """
from django.test import Client
from finetune_hub.accounts.models import Team
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.steering import change_priority
team = Team.objects.first()
user = team.memberships.first().user
spec = {"source": "hf:owner/name", "name": "rows", "mapping": None, "on_error": "refuse"}
job = Job.objects.create(team=team, created_by=user, kind="dataset", state="paused", spec=spec)
change_priority(job.pk, user, 5)
client = Client()
client.force_login(user)
print(job.pk, client.cookies["sessionid"].value)
"""
NEWS = """
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.steering import change_priority
job = Job.objects.get(pk="{job}")
change_priority(job.pk, job.created_by, 5 if job.priority != 5 else 6)
"""


class Viewers:
    """Clients that watch one job, each over its own connection."""

    def __init__(self, host: str, port: int, job_id: str, session: str) -> None:
        self._address = (host, port)
        self._head = (
            f"GET /jobs/{job_id}/stream?after=0-0-0 HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Cookie: sessionid={session}\r\n\r\n"
        ).encode()
        self._tasks: list[asyncio.Task[None]] = []
        self.heard: list[int] = []
        """How many updates of the job's history each has received."""
        self.lost = 0

    async def open(self, count: int) -> Self:
        """Return when each has received the current state."""
        self.heard = [0] * count
        for first in range(0, count, 50):
            numbers = range(first, min(first + 50, count))
            self._tasks += [asyncio.create_task(self._watch(number)) for number in numbers]
            await self.wait_until_heard(1, numbers)
        return self

    async def wait_until_heard(self, updates: int, numbers: range | None = None) -> float:
        """Return the seconds until each of them has received so many updates."""
        began = time.monotonic()
        while any(self.heard[number] < updates for number in numbers or range(len(self.heard))):
            if time.monotonic() - began > LONGEST_SECONDS or self.lost:
                raise SystemExit(f"{self.lost} lost their stream; {self.heard.count(0)} received nothing.")
            await asyncio.sleep(0.02)
        return time.monotonic() - began

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _watch(self, number: int) -> None:
        reader, writer = await asyncio.open_connection(*self._address)
        try:
            writer.write(self._head)
            while line := await reader.readline():
                self.heard[number] += line.startswith(b"event: history")
            self.lost += 1
        finally:
            writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=1000)
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (options.viewers + 200, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))
    print(f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="fh-viewers-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # As root, Postgres runs as another user and passes through.
        hub = RunningHub(folder / "home", clean_environment())
        try:
            hub.start()
            hub.new_token()  # Creates the first team.
            asyncio.run(measure(hub, options.viewers))
        finally:
            hub.stop()


async def measure(hub: RunningHub, count: int) -> None:
    job_id, session = run_in_hub(hub, PAUSED_JOB).split()
    warm = await viewers_of(hub, job_id, session).open(5)
    await warm.close()
    await asyncio.sleep(SETTLE_SECONDS)
    before = state_of(hub)
    began = time.monotonic()
    viewers = await viewers_of(hub, job_id, session).open(count)
    opened = time.monotonic() - began
    await asyncio.sleep(SETTLE_SECONDS)
    after = state_of(hub)
    heard = []
    for number in (2, 3):
        await asyncio.to_thread(run_in_hub, hub, NEWS.format(job=job_id))
        heard.append(await viewers.wait_until_heard(number))
    await asyncio.sleep(SETTLE_SECONDS)
    later = state_of(hub)
    print(
        f"{count} viewers, open after {opened:.1f} s; all received the change "
        f"{heard[0]:.2f} and {heard[1]:.2f} s after its command ended"
    )
    print(f"{'':28} {'before':>8} {'with them':>10} {'after changes':>10}")
    for what in before:
        print(f"{what:28} {before[what]:8.1f} {after[what]:10.1f} {later[what]:10.1f}")
    await viewers.close()


def viewers_of(hub: RunningHub, job_id: str, session: str) -> Viewers:
    url = urlsplit(hub.variables()["FINETUNE_HUB_URL"])
    assert url.hostname
    assert url.port
    return Viewers(url.hostname, url.port, job_id, session)


def state_of(hub: RunningHub) -> dict[str, float]:
    """Measure the web process and its servers."""
    variables = hub.variables()
    pid = next(part["identity"]["pid"] for part in hub.status()["parts"] if part["name"] == "web")
    threads = len(os.listdir(f"/proc/{pid}/task"))
    with psycopg.connect(variables["DATABASE_URL"], autocommit=True) as database:
        busy = database.execute(
            "select count(*) from pg_stat_activity where state <> 'idle' and pid <> pg_backend_pid()"
        )
        row = busy.fetchone()
    assert row
    subscriptions = redis.Redis.from_url(variables["REDIS_URL"]).client_list(_type="pubsub")
    return {
        "web: MB": pss_bytes(pid) / MB,
        "web: threads": threads,
        "database: busy connections": row[0],
        "redis: subscribers": len(subscriptions),
    }


def run_in_hub(hub: RunningHub, script: str) -> str:
    """Run a script with the hub's settings and return its output."""
    variables = {**hub.environment, **hub.variables(), "DJANGO_SETTINGS_MODULE": "finetune_hub.settings"}
    command = [sys.executable, "-P", "-m", "django", "shell", "-v", "0", "-c", script]
    return subprocess.run(command, env=variables, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


if __name__ == "__main__":
    main()
