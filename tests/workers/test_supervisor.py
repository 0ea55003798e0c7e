"""The supervisor: it runs an attempt's commands, and kills them when the lease ends. Real processes throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from workers import supervisor
from workers.supervisor import boot_clock, start_time_of, write_json

BEGIN = "import signal, sys, time; print('began', flush=True); "
SLEEP = BEGIN + "time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEP
POLITE = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: sys.exit(75)); " + SLEEP


class Attempt:
    """An attempt's folder and the supervisor on it."""

    def __init__(self, folder: Path, *programs: str, lease_seconds: float = 60, grace: float = 30) -> None:
        self.folder, self.grace = folder, grace
        commands = [[sys.executable, "-c", *program.split(" # ")] for program in programs]
        (folder / "commands.json").write_text(json.dumps(commands))
        self.lease(boot_clock() + lease_seconds)
        self.process = self.start()

    def start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-I", supervisor.__file__, str(self.folder)])

    def lease(self, deadline: float, *, stop: bool = False) -> None:
        write_json(self.folder / "lease.json", {"deadline": deadline, "stop": stop, "grace": self.grace})

    def began(self, times: int = 1) -> None:
        wait_until(lambda: (log := self.folder / "engine.log").exists() and log.read_text().count("began") == times)

    def trainer(self) -> int:
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def end(self) -> dict[str, Any]:
        self.process.wait(20)
        document: dict[str, Any] = json.loads((self.folder / "exit.json").read_text())
        return document


def wait_until(holds: Any, seconds: float = 60) -> None:
    give_up = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.02)


@pytest.fixture
def attempt(tmp_path: Path) -> Iterator[Any]:
    made: list[Attempt] = []

    def make(*programs: str, **options: Any) -> Attempt:
        made.append(Attempt(tmp_path, *programs, **options))
        return made[-1]

    yield make
    for each in made:
        if each.process.poll() is None:
            each.process.kill()
            each.process.wait()


@pytest.mark.parametrize("program", ["pass", SLEEP])
def test_a_signal_goes_to_a_group_whose_number_is_still_its_own(
    program: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever ends and is reaped gives its pid to others, as the number of a group too."""
    signals, kill_group = [], os.killpg

    def note(pid: int, number: int) -> None:
        signals.append((number, Path(f"/proc/{pid}").exists()))
        kill_group(pid, number)

    monkeypatch.setattr(os, "killpg", note)
    write_json(tmp_path / "lease.json", {"deadline": boot_clock() + 60, "stop": program == SLEEP, "grace": 30})
    supervisor.follow(tmp_path, supervisor.start(tmp_path, [sys.executable, "-c", program]))
    assert signals == [(signal.SIGTERM, True)] * (program == SLEEP) + [(signal.SIGKILL, True)]


def test_commands_run_in_turn_until_one_fails(attempt: Any, tmp_path: Path) -> None:
    ended = attempt("print('one')", "import sys; sys.exit(3)", "print('never')").end()
    assert (ended["status"], ended["reason"]) == (3, None)
    assert (tmp_path / "engine.log").read_text() == "one\n"


AHEAD = "print('loaded', flush=True); print('two' if input() else '') # --wait"
UNTIL_LOADED = """
import pathlib, time
while "loaded" not in pathlib.Path("engine.log").read_text(): time.sleep(0.01)
print("one", flush=True)
"""


def test_a_command_that_waits_is_loaded_before_its_turn(attempt: Any, tmp_path: Path) -> None:
    ended = attempt(UNTIL_LOADED, AHEAD).end()
    assert (ended["status"], ended["reason"]) == (0, None)
    assert (tmp_path / "engine.log").read_text() == "loaded\none\ntwo\n"


def test_a_command_that_waits_ends_when_its_turn_never_comes(attempt: Any, tmp_path: Path) -> None:
    ended = attempt(UNTIL_LOADED + "raise SystemExit(3)", AHEAD).end()
    assert (ended["status"], ended["reason"]) == (3, None)
    assert (tmp_path / "engine.log").read_text() == "loaded\none\n"


def test_the_trainer_dies_when_its_lease_ends(attempt: Any) -> None:
    running = attempt(DEAF)
    running.began()
    trainer = running.trainer()
    running.lease(boot_clock() + 0.3)
    ended = running.end()
    assert (ended["status"], ended["reason"]) == (-signal.SIGKILL, "lease_ended")
    assert start_time_of(trainer) is None


def test_a_lease_that_ended_before_the_start_lets_nothing_train(attempt: Any) -> None:
    assert attempt(SLEEP, lease_seconds=-1).end()["reason"] == "lease_ended"


def test_a_stop_lets_the_trainer_write_its_checkpoint(attempt: Any) -> None:
    running = attempt(POLITE, "print('never')")
    running.began()
    running.lease(boot_clock() + 60, stop=True)
    ended = running.end()
    assert (ended["status"], ended["reason"]) == (75, "stopped")


def test_a_trainer_that_does_not_stop_is_killed_after_the_grace(attempt: Any) -> None:
    running = attempt(DEAF, grace=0.3)
    running.began()
    running.lease(boot_clock() + 60, stop=True)
    ended = running.end()
    assert (ended["status"], ended["reason"]) == (-signal.SIGKILL, "grace_ended")


def test_the_trainer_dies_with_its_supervisor(attempt: Any) -> None:
    running = attempt(DEAF)
    running.began()
    trainer = running.trainer()
    running.process.kill()
    wait_until(lambda: start_time_of(trainer) is None)


def test_it_outlives_the_signals_of_a_terminal_and_of_a_worker(attempt: Any) -> None:
    running = attempt(SLEEP)
    running.began()
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        running.process.send_signal(number)
    time.sleep(0.3)
    assert running.process.poll() is None
    assert start_time_of(running.trainer()) is not None


def test_a_second_supervisor_leaves_the_attempt_alone(attempt: Any) -> None:
    running = attempt(SLEEP)
    running.began()
    before = (running.folder / "supervisor.json").read_text()
    assert running.start().wait(60) == 0
    assert (running.folder / "supervisor.json").read_text() == before
    running.began(times=1)


def test_what_a_command_leaves_behind_ends_with_it(attempt: Any, tmp_path: Path) -> None:
    leave = f"import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', {SLEEP!r}]).pid)"
    attempt(leave).end()
    left = int((tmp_path / "engine.log").read_text().split()[0])
    wait_until(lambda: start_time_of(left) is None)


def test_a_process_is_told_from_a_later_one_with_its_number() -> None:
    assert start_time_of(os.getpid()) == start_time_of(os.getpid()) is not None
    child = subprocess.Popen([sys.executable, "-c", ""])
    wait_until(lambda: start_time_of(child.pid) is None)  # A zombie counts as gone.
    child.wait()
