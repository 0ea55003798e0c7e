"""The parts of a hub that `finetune-hub up` runs on one machine.

    postgres   valkey   → migrate →   web   control   worker

Postgres and Valkey are left out if DATABASE_URL and REDIS_URL are set. Nothing else differs, as every part gets all
addresses from its environment.
"""

from __future__ import annotations

import errno
import http.client
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from finetune_hub.embedded.children import Child, Program, Supervisor, rotate
from finetune_hub.embedded.errors import BadAddress, PortTaken, ProgramFailed
from finetune_hub.embedded.folders import prepare_home
from finetune_hub.embedded.hub_environment import EVERY_ADDRESS, build_environment, save_environment
from finetune_hub.embedded.postgres import Postgres, choose_folder
from finetune_hub.embedded.state import HubPart, UpState, end_leftovers, write_state
from finetune_hub.embedded.upgrade_report import Upgrade
from finetune_hub.embedded.valkey import Valkey
from finetune_hub.machine.processes import identify

FIRST_PORT = 8000
PORTS_TRIED = 100
# -P: do not import from the current folder.
PYTHON = (sys.executable, "-P", "-m")
CELERY = (*PYTHON, "celery", "-A", "finetune_hub.celery:app")
CELERY_WORKER = ("--loglevel", "info", "--without-gossip", "--without-mingle")


class Stack:
    """All parts of one hub, as children of this process. Call all methods from the thread that created it.

    Args:
        home: the data folder, already locked.
        port: an explicit port must be free; None: the first free one from 8000 on.
        stopping: returns whether a stop was requested; called many times per second.
        report: called with a part's name and duration in seconds when it is ready and when it has stopped.
        announce: called with a sentence about what happens next.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str,
        port: int | None,
        worker_name: str,
        stopping: Callable[[], bool],
        report: Callable[[str, float], None],
        announce: Callable[[str], None],
    ) -> None:
        self.home = home
        self.host = host
        self.port = choose_port(host, port)
        self.worker_name = worker_name
        self.stopping = stopping
        self.report = report
        self.announce = announce
        self.environment: dict[str, str] = {}
        self.sockets: dict[str, Path] = {}
        self.supervisor = Supervisor(home / "logs")
        self.started_at = time.time()
        self.has_started = False

    @property
    def url(self) -> str:
        return self.environment.get("FINETUNE_HUB_URL", "")

    def start(self) -> None:
        """Start every part in order. Returns early if a stop is requested.

        Raises:
            EmbeddedError: a part did not start. The others keep running: call `stop`.
        """
        prepare_home(self.home)
        end_leftovers(self.home)
        servers = self._start_servers()
        save_environment(self.home, self.environment)
        self._wait(servers)
        if not self.stopping():
            self._migrate()
        if not self.stopping():
            self._wait([self.supervisor.start(program) for program in self._own_programs()])
        if not self.stopping():
            self.has_started = True
            self._write_state()

    def tend(self) -> None:
        """Check the parts once: restart dead ones and update the state file."""
        if self.supervisor.tend():
            self._write_state()

    def stop(self, *, hurry: Callable[[], bool]) -> None:
        """Stop every part in reverse order, or all at once if `hurry()`."""
        began = time.monotonic()

        def report(child: Child) -> None:
            nonlocal began
            self._write_state()
            self.report(child.program.name, time.monotonic() - began)
            began = time.monotonic()

        self.supervisor.stop(hurry=hurry, report=report)

    def login_link(self) -> str:
        """Return a one-time link that signs the first owner in; empty if that failed."""
        command = [*PYTHON, "django", "login_link", "--next", "/", "--base-url", self.url]
        with (self.home / "logs" / "login_link.log").open("ab") as log:
            made = subprocess.run(
                command, env=self._full_environment(), cwd=self.home, stdout=subprocess.PIPE, stderr=log, check=False
            )
        return made.stdout.decode().strip() if made.returncode == 0 else ""

    def _start_servers(self) -> list[Child]:
        """Start Postgres and Valkey, unless the environment names others, and set the parts' environment."""
        database_url = os.environ.get("DATABASE_URL")
        redis_url = os.environ.get("REDIS_URL")
        servers = []
        if not database_url:
            postgres = Postgres(choose_folder(self.home), self.home / "postgres_password")
            servers.append(self.supervisor.start(postgres.program()))
            self.sockets["postgres"] = postgres.socket_folder
            database_url = postgres.url
        if not redis_url:
            valkey = Valkey(self.home / "valkey")
            servers.append(self.supervisor.start(valkey.program()))
            self.sockets["valkey"] = valkey.socket
            redis_url = valkey.url
        self.environment = build_environment(
            self.home,
            database_url=database_url,
            redis_url=redis_url,
            host=self.host,
            port=self.port,
            worker_name=self.worker_name,
        )
        return servers

    def _migrate(self) -> None:
        """Migrate the database.

        Raises:
            DatabaseNewer: a newer release has upgraded the database; nothing was changed.
            ProgramFailed: the migration failed.
        """
        began = time.monotonic()
        log = self.home / "logs" / "migrate.log"
        rotate(log)
        child = Child(self._program("migrate", [*PYTHON, "django", "upgrade_database"], lambda _: True), log)
        upgrade: Upgrade | None = None

        def look() -> bool:
            """Announce the upgrade as soon as it is known."""
            nonlocal upgrade
            if upgrade is None and (upgrade := Upgrade.read(child.output())) and (sentence := upgrade.sentence()):
                self.announce(sentence)
            return self.stopping()

        try:
            child.run_to_end(give_up=look)
        except ProgramFailed:
            if found := Upgrade.read(child.output()):
                found.refuse_newer()
            raise
        look()  # It may have ended before the last look.
        self.report("migrate", time.monotonic() - began)

    def _own_programs(self) -> list[Program]:
        web = [*PYTHON, "uvicorn", "finetune_hub.asgi:application", "--host", self.host, "--port", str(self.port)]
        web += ["--http", "finetune_hub.connections:PatientConnection", "--loop", "uvloop"]
        web += ["--timeout-graceful-shutdown", "3"]  # Open event streams would keep it running.
        control = [*CELERY, "worker", "-Q", "control", "-P", "threads", "-c", "4", "-n", "control@%h", *CELERY_WORKER]
        control += ["--beat-thread", "-s", str(self.home / "run" / "beat-schedule")]
        return [
            self._program("web", web, lambda _: answers_http(self.host, self.port)),
            self._program("control", control, celery_worker_is_ready),
            self._program("worker", worker_command(self.worker_name), celery_worker_is_ready),
        ]

    def _program(self, name: str, argv: list[str], is_ready: Callable[[str], bool]) -> Program:
        return Program(
            name=name,
            argv=argv,
            environment=self._full_environment(),
            is_ready=is_ready,
            folder=self.home,
            stop_signal=signal.SIGTERM,
        )

    def _full_environment(self) -> dict[str, str]:
        return {**os.environ, **self.environment}

    def _wait(self, children: list[Child]) -> None:
        for child in children:
            self._write_state()
            self.supervisor.wait_until_ready(child, give_up=self.stopping)
            if child.state == "ready":
                self.report(child.program.name, child.seconds_to_ready)
        self._write_state()

    def _write_state(self) -> None:
        identity = identify(os.getpid())
        assert identity is not None
        parts = [HubPart.of(child) for child in self.supervisor.children]
        state = UpState(
            identity=identity,
            url=self.url,
            started_at=self.started_at,
            has_started=self.has_started,
            sockets=self.sockets,
            parts=parts,
        )
        try:
            write_state(self.home, state)
        except OSError:
            pass  # A full disk makes `status` stale, but the parts keep running.


def worker_command(name: str) -> list[str]:
    """Return the command of the GPU worker `name`, which serves only the queue with its name."""
    worker = ["worker", "-Q", f"worker.{name}", "-P", "threads", "-c", "2", "-n", f"worker.{name}@%h"]
    return [*CELERY, *worker, *CELERY_WORKER]


def default_worker_name() -> str:
    """Return this machine's short name, in characters that a queue name may have."""
    short_name = socket.gethostname().partition(".")[0].lower()
    return re.sub(r"[^a-z0-9-]+", "-", short_name).strip("-") or "local"


def choose_port(host: str, wanted: int | None) -> int:
    """Return the port to listen on: the requested one, or the first free one from 8000 on.

    Raises:
        PortTaken: the requested port, or every port, is in use.
        BadAddress: this machine cannot listen on that address.
    """
    if wanted is not None:
        port = free_port(host, wanted)
        if port is None:
            raise PortTaken(host=host, port=wanted)
        return port
    for candidate in range(FIRST_PORT, FIRST_PORT + PORTS_TRIED):
        if free_port(host, candidate) is not None:
            return candidate
    raise PortTaken(host=host, port=f"{FIRST_PORT} and the {PORTS_TRIED - 1} after it")


def free_port(host: str, port: int) -> int | None:
    """Return the port if it is free, or None; port 0 finds a free one.

    Raises:
        BadAddress: this machine cannot listen on that address.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            return int(listener.getsockname()[1])
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return None
        raise BadAddress(host=f"{host}, port {port}", reason=(error.strerror or str(error)).lower()) from error


def answers_http(host: str, port: int) -> bool:
    """Return whether the web process responds, with any status."""
    connection = http.client.HTTPConnection("127.0.0.1" if host in EVERY_ADDRESS else host, port, timeout=5)
    try:
        connection.request("HEAD", "/")
        connection.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
    return True


def celery_worker_is_ready(output: str) -> bool:
    """Return whether Celery has logged that it is ready. A remote-control query would need a process each time."""
    return " ready." in output
