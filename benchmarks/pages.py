"""How fast pages and API respond on a hub with 10,000 jobs and a million metric points.

    python -m benchmarks.pages [--jobs 10000] [--points 1000000] [--rounds 100]

Measures server time per request: middleware, view, database and template, in this process, without the network. The
table shows the median and the 95th percentile in milliseconds, and the number of queries. Postgres starts in a
temporary folder, unless DATABASE_URL names an empty database.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

LONG_JOB_SHARE = 0.1  # The share of all points in one job, the longest curve that a page has to draw.
INSERT_POINTS = """
    INSERT INTO jobs_metricpoint (attempt_id, step, epoch, loss, learning_rate, grad_norm, tokens, supervised_tokens,
                                  seconds, peak_memory_bytes)
    SELECT attempt, step, step / 100.0, 2.0 / step, 0.0002, 1.0, 1000, 200, 0.5, 1000000000
    FROM unnest(%s::bigint[]) AS attempt, generate_series(1, %s) AS step"""
INSERT_EVENTS = """
    INSERT INTO jobs_jobevent (job_id, number, level, message)
    SELECT job, number, 'info', 'Something happened.'
    FROM unnest(%s::text[]) AS job, generate_series(1, 10) AS number"""
PAGES = [
    "/",
    "/jobs/",
    "/jobs/?page=150",
    "/jobs/?show=failed",
    "/jobs/{job}/",
    "/jobs/{job}/metrics.json",
    "/jobs/new/",
    "/datasets/",
    "/datasets/{dataset}/",
    "/base-models/",
    "/adapters/",
    "/adapters/{adapter}/",
    "/workers/",
    "/team/",
    "/account/",
]
ENDPOINTS = [
    "/api/jobs",
    "/api/jobs/{job}",
    "/api/jobs/{job}/metrics",
    "/api/jobs/{job}/events",
    "/api/adapters",
    "/api/datasets",
    "/api/workers",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=100, help="measured requests per page, after three to warm up")
    parser.add_argument("--json", type=Path, help="write the medians to this file too")
    options = parser.parse_args()
    with django_on_a_database():
        long_job = fill(options.jobs, options.points)
        print(f"{options.jobs:,} jobs, {options.points:,} points; {platform.platform()}, {os.cpu_count()} cores")
        print("\n| page | median ms | p95 ms | queries |\n|---|---|---|---|")
        figures: dict[str, list[float]] = {}
        for name, get in requests(long_job):
            milliseconds, queries = measure(get, options.rounds)
            figures[f"{name}: ms"] = [statistics.median(milliseconds)]
            p95 = statistics.quantiles(milliseconds, n=20)[-1]
            print(f"| {name} | {statistics.median(milliseconds):.1f} | {p95:.1f} | {queries} |", flush=True)
    if options.json:  # For `benchmarks.compare`.
        figures["all together: ms"] = [sum(values[0] for values in figures.values())]
        options.json.write_text(json.dumps(figures, indent=2))


@contextmanager
def django_on_a_database() -> Iterator[None]:
    """Set up Django with a migrated database that is deleted at the end."""
    from finetune_hub.embedded.children import Supervisor
    from finetune_hub.embedded.postgres import Postgres

    with tempfile.TemporaryDirectory(prefix="fh-bench-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)  # As root, Postgres runs as another user and needs access.
        for name in ("home", "logs"):
            (folder / name).mkdir()
        supervisor = Supervisor(folder / "logs")
        try:
            if "DATABASE_URL" not in os.environ:
                postgres = Postgres(folder / "postgres", folder / "postgres_password")
                os.environ["DATABASE_URL"] = postgres.url
                supervisor.wait_until_ready(supervisor.start(postgres.program()))
            os.environ |= {
                "DJANGO_SETTINGS_MODULE": "finetune_hub.settings",
                "REDIS_URL": "redis://127.0.0.1:9/0",  # No page needs it.
                "ARTIFACT_URL": (folder / "artifacts").as_uri(),
                "FINETUNE_HUB_HOME": str(folder / "home"),
                "FINETUNE_HUB_URL": "http://testserver",
                "FINETUNE_HUB_WORKER_NAME": "bench",
                "ALLOWED_HOSTS": "testserver",
                "SECRET_KEY": "bench",
            }
            import django
            from django.core.management import call_command
            from django.db import connections

            django.setup()
            call_command("migrate", verbosity=0)
            yield
            connections.close_all()
        finally:
            supervisor.stop()


def fill(job_count: int, point_count: int) -> Any:
    """Create a team with jobs, an attempt and ten events each, and curves; return the job with the longest curve."""
    from django.db import connection
    from django.utils import timezone

    from finetune_hub.accounts.models import Role
    from finetune_hub.jobs.models import Attempt, Job
    from tests import factories

    user = factories.make_user("alice", is_staff=True)
    team = factories.make_team(user, slug="bench", role=Role.ADMIN)
    version = factories.make_dataset_version(team)
    base_model = factories.make_base_model(team)
    for number in range(200):
        factories.make_adapter_version(team, f"adapter-{number}", base_model=base_model, dataset_version=version)
    worker = factories.make_worker("gpu-1", devices=0)
    long_job = factories.make_job(team, base_model=base_model, dataset_version=version)
    now, spec = timezone.now(), long_job.spec
    states = ["succeeded"] * 6 + ["failed"] + ["cancelled"] + ["queued"] * 2
    jobs = [long_job]
    for number in range(1, job_count):
        state = states[number % len(states)]
        job = Job(team=team, created_by=user, kind="train", state=state, spec=spec, base_model=base_model, step=90)
        job.total_steps, job.created_at = 100, now
        if state != "queued":
            job.finished_at = now
        if state == "failed":
            job.failure_class, job.failure_message = "out_of_memory", "Out of memory."
        jobs.append(job)
    Job.objects.bulk_create(jobs[1:], batch_size=1000)
    attempts = Attempt.objects.bulk_create(
        [
            Attempt(job=job, number=1, worker=worker, state="lost", lease_expires_at=now, finished_at=now)
            for job in jobs
        ],
        batch_size=1000,
    )
    long_steps = int(point_count * LONG_JOB_SHARE)
    steps = (point_count - long_steps) // max(1, job_count - 1)
    Job.objects.filter(pk=long_job.pk).update(step=long_steps, total_steps=long_steps, event_count=10)
    with connection.cursor() as cursor:
        cursor.execute(INSERT_POINTS, [[attempts[0].pk], long_steps])
        cursor.execute(INSERT_POINTS, [[attempt.pk for attempt in attempts[1:]], steps])
        cursor.execute(INSERT_EVENTS, [[job.pk for job in jobs]])
        cursor.execute("ANALYZE")
    return long_job


def requests(long_job: Any) -> Iterator[tuple[str, Any]]:
    """Yield each page and endpoint by name, with a function that requests it."""
    from django.test import Client
    from rest_framework.test import APIClient

    from finetune_hub.accounts.actions import create_token
    from finetune_hub.registry.models import Adapter

    user, team = long_job.created_by, long_job.team
    browser, program = Client(), APIClient()
    browser.force_login(user)
    program.credentials(HTTP_AUTHORIZATION=f"Bearer {create_token(user, team, name='bench')[1]}")
    adapter = Adapter.objects.first()
    assert adapter is not None
    dataset = team.datasets.get()
    ids = {"job": long_job.pk, "dataset": dataset.pk, "adapter": adapter.pk}
    for client, paths in ((browser, PAGES), (program, ENDPOINTS)):
        for path in paths:
            yield path, partial(client.get, path.format(**ids))


def measure(get: Any, rounds: int) -> tuple[list[float], int]:
    """Return the milliseconds of each round, and the number of queries in one."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    for _ in range(3):
        with CaptureQueriesContext(connection) as queries:
            assert get().status_code == 200
            count = len(queries)
    milliseconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        get()
        milliseconds.append(1000 * (time.perf_counter() - start))
    return milliseconds, count


if __name__ == "__main__":
    main()
