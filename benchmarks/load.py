"""A hub under load: 16 clients that send requests continuously, then 1,000 that all send one at once.

    python -m benchmarks.load [--clients 1000] [--jobs 200] [--seconds 15] [--viewers 50]

Each client has its own connection and requests a long list of jobs. After a 503 it waits for `Retry-After` and retries.
Prints the responses by status, the seconds of those with 200, how many clients succeeded at which try, and the rate of
200s of the crowd relative to that of the 16. Meanwhile some viewers watch a job: none may lose its stream, and all must
receive what is announced afterwards. Traffic uses only loopback.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles
from urllib.parse import urlsplit

from benchmarks.engine import cpu_name
from benchmarks.running_hub import RunningHub, clean_environment
from benchmarks.viewers import NEWS, PAUSED_JOB, run_in_hub, viewers_of

STEADY_CLIENTS = 16
TRIES = 3
LONGEST_SECONDS = 120.0
FILL = """
from finetune_hub.accounts.models import Team
from finetune_hub.jobs.models import Job
team = Team.objects.first()
user = team.memberships.first().user
spec = {{"source": "hf:owner/name", "name": "rows", "mapping": None, "on_error": "refuse"}}
Job.objects.bulk_create(
    Job(team=team, created_by=user, kind="dataset", state="cancelled", spec=spec, finished_at="2026-01-01T00:00:00Z")
    for _ in range({count})
)
"""


@dataclass
class Answers:
    """The clients' responses."""

    statuses: Counter[int] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    """Seconds of the responses with 200."""
    tries: Counter[int] = field(default_factory=Counter)
    """Number of clients by the try that succeeded; 0: none did."""
    ended: list[float] = field(default_factory=list)
    """Times of the responses with 200."""


@dataclass(frozen=True)
class Address:
    host: str
    port: int
    path: str
    token: str

    async def get(self) -> tuple[int, float]:
        """Return the status, and the seconds after which to retry."""
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            head = (
                f"GET {self.path} HTTP/1.1\r\nHost: {self.host}:{self.port}\r\nAuthorization: Bearer {self.token}\r\n"
            )
            writer.write(f"{head}Connection: close\r\n\r\n".encode())
            answer = await reader.read(-1)
        finally:
            writer.close()
        lines = answer.split(b"\r\n\r\n", 1)[0].decode("latin-1").split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), float(headers.get("retry-after", 0))


def main() -> None:
    options = parse()
    print(f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores")
    with tempfile.TemporaryDirectory(prefix="fh-load-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # As root, Postgres runs as another user and passes through.
        hub = RunningHub(folder / "home", clean_environment() | {"FINETUNE_HUB_API_RATE": "1000000/minute"})
        try:
            hub.start()
            url = urlsplit(hub.variables()["FINETUNE_HUB_URL"])
            assert url.hostname
            assert url.port
            address = Address(url.hostname, url.port, "/api/jobs?limit=100", hub.new_token())
            run_in_hub(hub, FILL.format(count=options.jobs))
            asyncio.run(measure(hub, address, options))
        finally:
            hub.stop()


async def measure(hub: RunningHub, address: Address, options: argparse.Namespace) -> None:
    job_id, session = run_in_hub(hub, PAUSED_JOB).split()
    viewers = await viewers_of(hub, job_id, session).open(options.viewers)
    await steady(address, 2.0)
    calm = await steady(address, options.seconds)
    rate = len(calm.ended) / options.seconds
    print(f"{STEADY_CLIENTS} clients: {rate:.1f} answers/s, {dict(calm.statuses)}, p95 {p95(calm.seconds):.2f} s")
    crowd = Answers()
    began = time.monotonic()
    await asyncio.gather(*(persevere(address, crowd) for _ in range(options.clients)))
    served = len(crowd.ended) / (max(crowd.ended) - began)
    share = 1 - crowd.tries[0] / options.clients
    print(f"{options.clients} clients: {served:.1f} answers/s, {dict(crowd.statuses)}, p95 {p95(crowd.seconds):.2f} s")
    print(f"by try {dict(sorted(crowd.tries.items()))}: {100 * share:.1f}% within {TRIES}; rate {served / rate:.2f}x")
    await asyncio.to_thread(run_in_hub, hub, NEWS.format(job=job_id))
    heard = await viewers.wait_until_heard(2)
    print(f"{options.viewers} viewers: none lost its stream, and all received a change {heard:.2f} s after its command")
    await viewers.close()


async def steady(address: Address, seconds: float) -> Answers:
    """Run clients that send the next request as soon as they get a response."""
    answers, end = Answers(), time.monotonic() + seconds

    async def ask_again() -> None:
        while time.monotonic() < end:
            await ask(address, answers)

    await asyncio.gather(*(ask_again() for _ in range(STEADY_CLIENTS)))
    return answers


async def persevere(address: Address, answers: Answers) -> None:
    for number in range(1, TRIES + 1):
        status, wait = await ask(address, answers)
        if status == 200:
            answers.tries[number] += 1
            return
        await asyncio.sleep(wait)
    answers.tries[0] += 1


async def ask(address: Address, answers: Answers) -> tuple[int, float]:
    began = time.monotonic()
    try:
        status, wait = await asyncio.wait_for(address.get(), LONGEST_SECONDS)
    except (OSError, IndexError, TimeoutError):
        status, wait = 0, 1.0
    answers.statuses[status] += 1
    if status == 200:
        answers.ended.append(time.monotonic())
        answers.seconds.append(answers.ended[-1] - began)
    return status, wait


def p95(seconds: list[float]) -> float:
    return quantiles(seconds, n=20)[-1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=200, help="jobs in the list")
    parser.add_argument("--viewers", type=int, default=50, help="browsers that watch one job meanwhile")
    parser.add_argument("--seconds", type=float, default=15.0, help="duration of the load by 16 clients")
    return parser.parse_args()


if __name__ == "__main__":
    main()
