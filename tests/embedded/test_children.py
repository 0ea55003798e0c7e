"""Supervised children: readiness, restarts, orderly ends, and no orphans."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from finetune_hub.embedded import children
from finetune_hub.embedded.children import LOG_MAX_BYTES, Program, Supervisor, rotate
from finetune_hub.embedded.errors import ProgramFailed
from finetune_hub.machine.processes import ProcessIdentity, identify
from tests.embedded.conftest import mode_of, tend_until, wait_for

SLEEPER = "import signal; print('ready', flush=True); signal.pause()"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); signal.pause()"


def program(code: str = SLEEPER, name: str = "child", **overrides: object) -> Program:
    facts: dict[str, object] = {
        "name": name,
        "argv": [sys.executable, "-S", "-c", code],
        "environment": {"PATH": os.defpath},
        "is_ready": lambda output: "ready" in output,
        "ready_seconds": 10,
        **overrides,
    }
    return Program(**facts)  # type: ignore[arg-type]


def kill(identity: ProcessIdentity | None) -> None:
    assert identity is not None
    assert identity.send(signal.SIGKILL)


def test_is_ready_by_its_probe(supervisor: Supervisor) -> None:
    child = supervisor.start(program())
    assert child.state == "starting"
    supervisor.wait_until_ready(child)
    assert child.state == "ready"
    assert child.output() == "ready\n"


def test_ctrl_c_in_the_terminal_does_not_reach_it(supervisor: Supervisor) -> None:
    child = supervisor.start(program())
    assert child.identity is not None
    assert os.getsid(child.identity.pid) == child.identity.pid


def test_comes_back_after_kill_9(supervisor: Supervisor) -> None:
    child = supervisor.start(program())
    supervisor.wait_until_ready(child)
    first = child.identity
    kill(first)
    tend_until(supervisor, lambda: child.restarts == 1 and child.state == "ready")
    assert child.identity != first


def test_backs_off_when_it_dies_again_and_again() -> None:
    child = children.Child(program(), Path("/dev/null"))
    waits = []
    for _ in range(9):
        child.note_death(now=0)
        waits.append(child._restart_at)
    assert waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_long_healthy_run_forgets_earlier_deaths(monkeypatch: pytest.MonkeyPatch) -> None:
    child = children.Child(program(), Path("/dev/null"))
    for _ in range(5):
        child.note_death(now=0)
    child.since -= children.HEALTHY_AFTER_SECONDS + 1
    child.note_death(now=0)
    assert child._restart_at == children.BACK_OFF_FIRST_SECONDS


def test_a_failed_start_tells_its_last_words(supervisor: Supervisor) -> None:
    child = supervisor.start(program("raise SystemExit('no such table: users')"))
    with pytest.raises(ProgramFailed, match=r"ended with code 1.*no such table: users.*child\.log"):
        supervisor.wait_until_ready(child)


def test_a_start_may_be_tried_again(supervisor: Supervisor, home: Path) -> None:
    marker = home / "second-time"
    code = f"import os, sys; p = {str(marker)!r}; os.path.exists(p) or (open(p, 'w'), sys.exit(1)); {SLEEPER}"
    child = supervisor.start(program(code, start_attempts=2))
    supervisor.wait_until_ready(child)
    assert child.restarts == 1


def test_never_ready_is_an_error(supervisor: Supervisor) -> None:
    child = supervisor.start(program("import signal; signal.pause()", ready_seconds=0.3))
    with pytest.raises(ProgramFailed, match="not ready after"):
        supervisor.wait_until_ready(child)


def test_stops_the_last_started_first(supervisor: Supervisor) -> None:
    for name in ("postgres", "web", "worker"):
        supervisor.wait_until_ready(supervisor.start(program(name=name)))
    identities = [child.identity for child in supervisor.children]
    stopped: list[str] = []
    supervisor.stop(report=lambda child: stopped.append(child.program.name))
    assert stopped == ["worker", "web", "postgres"]
    assert not any(identity.is_alive() for identity in identities if identity)


@pytest.mark.parametrize(("stop_seconds", "hurry"), [(0.3, False), (60, True)], ids=["grace is over", "in a hurry"])
def test_a_deaf_child_is_killed(supervisor: Supervisor, stop_seconds: float, hurry: bool) -> None:
    child = supervisor.start(program(DEAF, stop_seconds=stop_seconds))
    supervisor.wait_until_ready(child)
    identity = child.identity
    supervisor.stop(hurry=lambda: hurry)
    assert identity is not None
    assert not identity.is_alive()


def test_a_stopped_child_stays_stopped(supervisor: Supervisor) -> None:
    child = supervisor.start(program())
    supervisor.wait_until_ready(child)
    supervisor.stop()
    supervisor.tend()
    assert child.state == "stopped"


def test_a_stop_signal_spares_what_the_child_has_detached(supervisor: Supervisor) -> None:
    """A trainer's supervisor outlives its worker."""
    code = (
        "import subprocess, sys, signal; "
        f"sleeper = [sys.executable, '-c', {SLEEPER!r}]; "
        "p = subprocess.Popen(sleeper, stdout=subprocess.DEVNULL, start_new_session=True); "
        "print('ready', p.pid, flush=True); signal.pause()"
    )
    child = supervisor.start(program(code))
    supervisor.wait_until_ready(child)
    detached = identify(int(child.output().split()[1]))
    assert detached is not None
    supervisor.stop()
    assert detached.is_alive()
    detached.send(signal.SIGKILL)


OWNER = """
import sys, time
from pathlib import Path
from tests.embedded.test_children import DEAF, SLEEPER, program
from finetune_hub.embedded.children import Supervisor
supervisor = Supervisor(Path(sys.argv[1]))
for name, code in (("meek", SLEEPER), ("deaf", DEAF)):
    supervisor.wait_until_ready(supervisor.start(program(code, name)))
print(*[child.identity.pid for child in supervisor.children], supervisor._guard.pid, flush=True)
while True:
    supervisor.tend()
    time.sleep(0.1)
"""


@pytest.fixture
def owner(home: Path) -> Callable[[], tuple[subprocess.Popen[str], list[ProcessIdentity]]]:
    """Starts a process that owns a meek child, a deaf child and their guard."""

    def start() -> tuple[subprocess.Popen[str], list[ProcessIdentity]]:
        process = subprocess.Popen([sys.executable, "-c", OWNER, str(home)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        with process.stdout:
            pids = [int(word) for word in process.stdout.readline().split()]
        return process, [identity for pid in pids if (identity := identify(pid))]

    return start


def test_nothing_outlives_a_killed_owner(
    owner: Callable[[], tuple[subprocess.Popen[str], list[ProcessIdentity]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    process, family = owner()
    assert len(family) == 3
    process.kill()
    process.wait()
    wait_for(lambda: not any(member.is_alive() for member in family))


@pytest.mark.skipif(sys.platform != "linux", reason="macOS has the guard alone")
def test_children_hear_of_a_killed_owner_without_the_guard(
    owner: Callable[[], tuple[subprocess.Popen[str], list[ProcessIdentity]]],
) -> None:
    process, (meek, deaf, guard) = owner()
    os.kill(process.pid, signal.SIGSTOP)  # It may not start another guard.
    guard.send(signal.SIGKILL)
    process.kill()
    process.wait()
    wait_for(lambda: not meek.is_alive())
    deaf.send(signal.SIGKILL)


def test_a_killed_guard_is_replaced(supervisor: Supervisor) -> None:
    supervisor.wait_until_ready(supervisor.start(program()))
    assert supervisor._guard is not None
    first = supervisor._guard
    first.kill()
    first.wait()
    supervisor.tend()
    assert supervisor._guard.pid != first.pid


def test_a_reused_pid_is_left_alone() -> None:
    stranger = ProcessIdentity(os.getpid(), "another start time")
    assert not stranger.is_alive()
    assert not stranger.send(signal.SIGKILL)


def test_a_large_log_is_set_aside(home: Path) -> None:
    log = home / "web.log"
    for number in range(6):
        rotate(log)
        with log.open("w") as stream:
            stream.write(str(number))
            stream.truncate(LOG_MAX_BYTES + 1)
    kept = {path.name: path.read_text()[0] for path in sorted(home.iterdir())}
    assert kept == {"web.log": "5", "web.log.1": "4", "web.log.2": "3", "web.log.3": "2"}


def test_a_log_is_private(supervisor: Supervisor) -> None:
    child = supervisor.start(program())
    assert mode_of(child.log) == 0o600
