"""What must hold once the fire is out. Each finding is a sentence about something that does not."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from psycopg import Connection

from tests.chaos.hub_under_fire import HubUnderFire

ENDED = ("succeeded", "failed", "cancelled")
# A job fails after five attempts in a row that left no checkpoint: by rule, never in silence.
MAY_FAIL_AS = {"worker_lost", "infrastructure"}


def findings(hub: HubUnderFire, recipes: dict[str, str], cancelled: set[str]) -> list[str]:
    """All that is wrong.

    Args:
        recipes: of each job that was submitted, by id: what it was submitted with. Jobs with one recipe train the same.
        cancelled: ids of jobs that somebody cancelled.
    """
    with hub.database() as database:
        return [
            *jobs(database, recipes, cancelled),
            *adapters(database, recipes),
            *curves(database),
            *stale_writes(database),
            *devices(database),
            *files(database, hub.main.home / "artifacts"),
        ]


def jobs(database: Connection[dict[str, Any]], recipes: dict[str, str], cancelled: set[str]) -> Iterator[str]:
    rows = database.execute("SELECT id, kind, state, failure_class, failure_message FROM jobs_job").fetchall()
    trainings = {row["id"] for row in rows if row["kind"] == "train"}
    if trainings != recipes.keys():
        yield f"submitted {len(recipes)} trainings, {len(trainings)} are there"
    for row in rows:
        if row["state"] not in ENDED:
            yield f"{row['id']} has not ended: {row['state']}"
        if row["state"] == "failed" and row["failure_class"] not in MAY_FAIL_AS:
            yield f"{row['id']} failed: {row['failure_class']}, {row['failure_message']}"
        if row["state"] == "cancelled" and row["id"] not in cancelled:
            yield f"{row['id']} was cancelled by nobody"


def adapters(database: Connection[dict[str, Any]], recipes: dict[str, str]) -> Iterator[str]:
    """One adapter for each job that succeeded, none for any other; and the same bytes for the same recipe."""
    query = """
        SELECT j.id, j.state, count(p.id) AS published, max(f.sha256) AS weights
        FROM jobs_job j
        LEFT JOIN jobs_publication p ON p.job_id = j.id
        LEFT JOIN registry_adapterfile f
               ON f.version_id = p.adapter_version_id AND f.path = 'adapter_model.safetensors'
        WHERE j.kind = 'train' GROUP BY j.id
    """
    weights: dict[str, set[str]] = defaultdict(set)
    for row in database.execute(query):
        if row["published"] != (row["state"] == "succeeded"):
            yield f"{row['id']} {row['state']} and published {row['published']} adapters"
        if row["weights"]:
            weights[recipes[row["id"]]].add(row["weights"])
    for recipe, hashes in weights.items():
        if len(hashes) > 1:
            yield f"jobs of one recipe ({recipe}) trained {len(hashes)} different adapters"


def curves(database: Connection[dict[str, Any]]) -> Iterator[str]:
    """Every step of a training that succeeded was recorded."""
    query = """
        SELECT j.id, j.total_steps, count(DISTINCT m.step) AS steps FROM jobs_job j
        JOIN jobs_attempt a ON a.job_id = j.id JOIN jobs_metricpoint m ON m.attempt_id = a.id
        WHERE j.kind = 'train' AND j.state = 'succeeded' GROUP BY j.id
    """
    for row in database.execute(query):
        if row["steps"] != row["total_steps"]:
            yield f"{row['id']} has {row['steps']} of {row['total_steps']} steps on its curve"


def stale_writes(database: Connection[dict[str, Any]]) -> Iterator[str]:
    for row in database.execute("SELECT what, attempt_id FROM chaos_stale_write"):
        yield f"attempt {row['attempt_id']} wrote to {row['what']} without a lease"


def devices(database: Connection[dict[str, Any]]) -> Iterator[str]:
    held = database.execute("SELECT count(*) AS held FROM jobs_deviceuse WHERE released_at IS NULL").fetchone()
    assert held
    if held["held"]:
        yield f"{held['held']} devices are still lent"


def files(database: Connection[dict[str, Any]], store: Path) -> Iterator[str]:
    """Every file that a row promises is there, byte for byte."""
    query = """
        SELECT v.artifact_prefix || '/' || f.path AS key, f.sha256
        FROM registry_adapterfile f JOIN registry_adapterversion v ON v.id = f.version_id
        UNION ALL
        SELECT m.artifact_prefix || '/' || f.path, f.sha256
        FROM catalog_basemodelfile f JOIN catalog_basemodel m ON m.id = f.base_model_id
        UNION ALL
        SELECT c.artifact_prefix || '/' || (e ->> 'path'), e ->> 'sha256'
        FROM jobs_checkpoint c, jsonb_array_elements(c.manifest) e
        UNION ALL
        SELECT artifact_key, sha256 FROM catalog_datasetversion
    """
    for row in database.execute(query):
        path = store / row["key"]
        if not path.is_file():
            yield f"{row['key']} is missing"
        elif hashlib.sha256(path.read_bytes()).hexdigest() != row["sha256"]:
            yield f"{row['key']} is not what it was"


def leftovers(hub: HubUnderFire) -> Iterator[str]:
    """After the hub was stopped: no process, and no attempt's folder."""
    for pid, words in hub.processes():
        yield f"process {pid} is left: {words[:120]}"
    for home in (hub.main.home, hub.far.home):
        for folder in home.glob("work/*/*"):
            yield f"the folder of an attempt is left: {folder.relative_to(home)}"
