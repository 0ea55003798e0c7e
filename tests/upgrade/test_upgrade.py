"""Today's code takes over a hub of an earlier commit: nothing is lost, and what people and programs hold works on."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
import yaml
from django.test import override_settings

from finetune_hub.accounts.sealing import unseal
from finetune_hub.api import urls as api
from finetune_hub.cli.client import Hub
from finetune_hub.dashboard import urls as dashboard
from finetune_hub.embedded.hub_environment import load_environment
from finetune_hub.embedded.postgres import DATABASE
from finetune_hub.spec.training import TrainingSpec
from tests.integration.conftest import COMMAND
from tests.upgrade.conftest import CLEAN, UpgradedHub, primary_keys
from tests.upgrade.visiting import Things, addresses_of, sign_in

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# Old name → new name, of tables that a migration has renamed since.
RENAMED_TABLES: dict[str, str] = {}
# GET is not what they are for (405), or they ask for a thing that was deleted (410).
OTHERWISE = {405, 410}


def token_client(hub: UpgradedHub) -> Hub:
    """The hub as the token reaches it that a pipeline was given before the upgrade."""
    return Hub(hub.url, hub.notes["token"])


def command(hub: UpgradedHub, *arguments: str) -> str:
    environment = {**CLEAN, "FINETUNE_HUB_URL": hub.url, "FINETUNE_HUB_TOKEN": hub.notes["token"]}
    done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_up_said_that_it_upgrades_and_to_what(hub: UpgradedHub) -> None:
    said = (hub.running.home.parent / "up.log").read_text()
    before, ready, _ = said.partition("✓ migrate")
    assert ready
    assert re.search(
        r"Upgrading the database from an earlier release to \S+: \d+ migrations? \(.*operations \d", before
    )


def test_every_row_is_still_there(hub: UpgradedHub) -> None:
    keys = primary_keys(hub.postgres.url_of(DATABASE))
    kept = {table: keys[RENAMED_TABLES.get(table, table)] for table in hub.keys_before}
    assert {table: rows - kept[table] for table, rows in hub.keys_before.items() if rows - kept[table]} == {}
    filled = {table for table, rows in hub.keys_before.items() if rows}
    ours = {table for table in hub.keys_before if not table.startswith(("django_", "auth_", "accounts_user_"))}
    assert ours - filled == set(), "the fixture has rows of every model"


def test_each_page_opens(hub: UpgradedHub) -> None:
    recorded = hub.notes["pages"]
    routes = [str(pattern.pattern) for pattern in dashboard.urlpatterns]
    paths = list(dict.fromkeys([*recorded, *addresses_of(routes, things_of(hub))]))
    wrong = {}
    with httpx.Client(base_url=hub.url, timeout=30) as browser:
        sign_in(browser, hub.running.login_link())
        for path in paths:
            if path == "logout/":
                continue
            with browser.stream("GET", f"/{path}") as answer:  # A live stream has no end to wait for.
                if answer.status_code not in ({recorded[path]} if path in recorded else {200, *OTHERWISE}):
                    wrong[path] = answer.status_code
    assert wrong == {}
    assert list(recorded.values()).count(200) > 50


def test_the_api_answers_with_all_that_it_had(hub: UpgradedHub) -> None:
    """Addresses and keys of JSON that pipelines know keep their names."""
    wrong: dict[str, Any] = {}
    with httpx.Client(base_url=f"{hub.url}/api/", headers=bearer(hub.notes["token"]), timeout=30) as client:
        for path, (status, body) in hub.notes["answers"].items():
            answer = client.get(path)
            if answer.status_code != status:
                wrong[path] = answer.status_code
            elif body is not None and (lost := list(missing_keys(body, answer.json()))):
                wrong[path] = lost
        routes = [str(pattern.pattern) for pattern in api.urlpatterns if not str(pattern.pattern).startswith("^")]
        for path in set(addresses_of(routes, things_of(hub))) - set(hub.notes["answers"]):
            if (status := client.get(path).status_code) not in {200, *OTHERWISE}:
                wrong[path] = status
    assert wrong == {}


def things_of(hub: UpgradedHub) -> Things:
    """What the hub has, and what later code brings."""
    things: Things = hub.notes["things"]
    jobs = [*things["jobs"], {"kind": "evaluate"}]
    return {
        **things,
        "jobs": jobs,
        "docs": [{"name": "jobs"}],
        "trash": [{"id": "del-none", "deletion_id": "del-none"}],
        "job-kinds": [{"name": "evaluate"}],
    }


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def missing_keys(before: Any, now: Any, place: str = "") -> list[str]:
    """Keys that an answer had and has no more; of lists the first rows are compared."""
    if isinstance(before, dict) and isinstance(now, dict):
        lost = [f"{place}.{key}" for key in before if key not in now]
        return lost + [
            deeper for key in before if key in now for deeper in missing_keys(before[key], now[key], f"{place}.{key}")
        ]
    if isinstance(before, list) and isinstance(now, list) and before and now:
        return missing_keys(before[0], now[0], f"{place}[0]")
    return []


def test_an_adapter_is_pulled_as_it_was_published(hub: UpgradedHub, tmp_path: Path) -> None:
    folder = tmp_path / "greetings"
    published = hub.notes["greetings"]
    command(hub, "adapters", "pull", f"{published['adapter_id']}:{published['version']}", "--output", str(folder))
    files = [path for path in folder.rglob("*") if path.is_file()]
    found = {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}
    assert found == hub.notes["pulled"]


def test_a_paused_training_goes_on_where_it_was(hub: UpgradedHub) -> None:
    paused = hub.notes["paused"]
    with token_client(hub) as client:
        assert client.job(paused["job_id"]).state == "paused"
        client.resume(paused["job_id"])
        job = list(client.watch(paused["job_id"], poll_seconds=0.2))[-1].job
        steps = [point.step for point in client.metrics(paused["job_id"])]
    assert job.state == "succeeded", job
    assert job.attempts[0].resumed_from_step == paused["step"]
    assert steps == list(range(1, paused["max_steps"] + 1))
    assert job.published.version == 1


def test_a_job_that_waited_still_waits(hub: UpgradedHub) -> None:
    with token_client(hub) as client:
        job = client.job(hub.notes["queued"]["job_id"])
    assert (job.state, job.priority) == ("queued", -3)
    assert job.waiting_reason


def test_a_recipe_and_a_spec_are_read(hub: UpgradedHub, tmp_path: Path) -> None:
    """A recipe that a team keeps with its code, and the spec that a program has stored, mean what they did."""
    stored = json.loads((hub.files / "spec.json").read_text())
    spec = TrainingSpec.model_validate(stored)
    recipe = hub.files / "recipe.yaml"
    assert TrainingSpec.model_validate(yaml.safe_load(recipe.read_text())) == spec
    written = spec.model_dump(mode="json", exclude_none=True)
    assert {**written, "spec_version": 1} | stored == {**written, "spec_version": 1}
    assert json.loads(command(hub, "plan", str(recipe), "--json"))["fits"]
    with token_client(hub) as client:  # Under the other name of its base model, too.
        assert client.plan({**stored, "base_model": "gpt-4o-mini"}).fits


def test_tokens_and_memberships_hold(hub: UpgradedHub) -> None:
    alice = hub.notes["alice"]
    with token_client(hub) as client, Hub(hub.url, alice["token"]) as hers:
        assert {key: getattr(client.me(), key) for key in ("user", "team", "role")} == {
            "user": "owner",
            "team": "team",
            "role": "admin",
        }
        assert (hers.me().team, hers.me().role) == (alice["team"], "admin")
        assert [dataset.name for dataset in hers.datasets()] == ["rows"]
        assert hers.adapters() == [], "of the other team"
        quota = next(row for row in client.quotas() if row.team == "team")
        assert (quota.max_devices, quota.max_hours, quota.weight) == (4, 1000.0, 2.0)
    members = httpx.get(f"{hub.url}/api/members", headers=bearer(hub.notes["token"])).json()["data"]
    roles = {member["username"]: member["role"] for member in members}
    assert roles == {"owner": "admin", "alice": "member", "vera": "viewer", "adam": "admin"}


def test_a_password_signs_in(hub: UpgradedHub) -> None:
    with httpx.Client(base_url=hub.url) as browser:
        sign_in(browser, "/login/", username="alice", password=hub.notes["alice"]["password"])
        assert "Research" in browser.get("/team/").text


def test_what_was_sealed_is_opened(hub: UpgradedHub) -> None:
    with psycopg.connect(hub.postgres.url_of(DATABASE)) as database:
        [(sealed,)] = database.execute("SELECT sealed FROM accounts_hubtoken").fetchall()
    with override_settings(SECRET_KEY=(hub.running.home / "secret_key").read_text().strip()):
        assert unseal(sealed) == hub.notes["hugging_face_token"]


def test_an_invited_worker_is_who_it_was(hub: UpgradedHub, tmp_path: Path) -> None:
    """Its role logs in with the password that it was given, sees its own, and may join with today's code."""
    home, worker = hub.running.home, hub.notes["worker"]
    old_socket = worker["environment"]["DATABASE_URL"].partition("?host=")[2]
    url = worker["environment"]["DATABASE_URL"].replace(old_socket, str(hub.postgres.socket_folder))
    with psycopg.connect(url, autocommit=True) as database:
        assert database.execute("SELECT worker_name()").fetchone() == (worker["name"],)
        seen = "SELECT DISTINCT name FROM jobs_attempt JOIN fleet_worker ON fleet_worker.id = worker_id"
        assert database.execute(seen).fetchall() == [(worker["name"],)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            database.execute("SELECT * FROM accounts_user")
    own = load_environment(home)
    environment = {**CLEAN, **{key: own[key] for key in ("REDIS_URL", "ARTIFACT_URL", "DJANGO_SETTINGS_MODULE")}}
    environment |= {"DATABASE_URL": url, "SECRET_KEY": "its own", "FINETUNE_HUB_WORKER_NAME": worker["name"]}
    environment["FINETUNE_HUB_HOME"] = str(tmp_path)
    joins = [sys.executable, "-P", "-m", "workers.preflight"]
    done = subprocess.run(joins, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
