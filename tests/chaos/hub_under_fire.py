"""A hub of two machines that is about to suffer: `box` beside the servers, and `far` behind cables that can be pulled.

up:  postgres  valkey  web  control  box            one home
     └── cable ──┴── cable ── far                          a home, and where permitted a small disk, of its own
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
from psycopg.rows import dict_row

from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.embedded.hub_environment import load_environment
from finetune_hub.embedded.stack import worker_command
from finetune_hub.machine.processes import command_line
from tests.chaos.cable import Cable
from tests.integration.conftest import OWN, RunningHub
from tests.tiny_models import make_chat_rows, make_tiny_model

LEASE_SECONDS = 12
FAR_DISK_BYTES = 64 << 20
PATIENCE_SECONDS = 180.0
TIMES = {
    "FINETUNE_HUB_LEASE_SECONDS": str(LEASE_SECONDS),
    "FINETUNE_HUB_CLAIM_SECONDS": "8",
    "FINETUNE_HUB_CANARY_SECONDS": "2",
    "FINETUNE_HUB_CANARY_MISSING_SECONDS": "12",
    "FINETUNE_HUB_RECONCILE_SECONDS": "1",
    "FINETUNE_HUB_RETRY_SECONDS": "0.5",
    "FINETUNE_HUB_STOP_GRACE_SECONDS": "10",
    "OMP_NUM_THREADS": "1",  # As many on both machines, so that they compute the same bits.
}
# Whoever records something for an attempt that does not run any more leaves a trace that no code of the hub can wipe.
WITNESS = """
CREATE TABLE IF NOT EXISTS chaos_stale_write (at timestamptz DEFAULT now(), what text, attempt_id bigint);
CREATE OR REPLACE FUNCTION chaos_witness() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM jobs_attempt WHERE id = NEW.attempt_id AND state = 'running'
                   AND lease_expires_at > clock_timestamp() - interval '1 second') THEN
        INSERT INTO chaos_stale_write (what, attempt_id) VALUES (TG_TABLE_NAME, NEW.attempt_id);
    END IF;
    RETURN NEW;
END $$;
"""
WITNESSED = ("jobs_metricpoint", "jobs_checkpoint", "jobs_publication")


class FarMachine:
    """A worker on a machine of its own, started again when it dies, as its init system would."""

    def __init__(self, hub: RunningHub, folder: Path) -> None:
        self.home = folder / "far"
        self.home.mkdir(mode=0o711)
        self.has_disk = mount(self.home)
        self._log = (folder / "far.log").open("ab")
        self._hub = hub
        self._cables = [
            Cable(hub.state.sockets["postgres"] / ".s.PGSQL.5432"),
            Cable(hub.state.sockets["valkey"]),
        ]
        self.process: subprocess.Popen[bytes] | None = None

    def environment(self) -> dict[str, str]:
        own = load_environment(self._hub.home)
        postgres, valkey = (cable.port for cable in self._cables)
        database = urlsplit(own["DATABASE_URL"])
        own["DATABASE_URL"] = f"postgresql://{database.netloc.rpartition('@')[0]}@127.0.0.1:{postgres}{database.path}"
        own["REDIS_URL"] = f"redis://127.0.0.1:{valkey}/0"
        return own | TIMES | {"FINETUNE_HUB_HOME": str(self.home), "FINETUNE_HUB_WORKER_NAME": "far"}

    def tend(self) -> None:
        """Start the worker when it does not run."""
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                worker_command("far"),
                env=self.environment(),
                cwd=self.home,
                stdout=self._log,
                stderr=self._log,
                start_new_session=True,
            )

    def pull_cables(self) -> None:
        for cable in self._cables:
            cable.pull()

    def plug_in(self) -> None:
        for cable in self._cables:
            cable.plug_in()

    def fill_disk(self) -> None:
        """Leave not a byte, as a log that nobody rotates does."""
        with (self.home / "ballast").open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 20))
            except OSError:
                pass

    def empty_disk(self) -> None:
        (self.home / "ballast").unlink(missing_ok=True)

    def stop(self) -> None:
        self.plug_in()
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for cable in self._cables:
            cable.close()
        self._log.close()

    def unmount(self) -> None:
        if self.has_disk:
            subprocess.run(["umount", "--lazy", str(self.home)], check=False)


def mount(folder: Path) -> bool:
    """A small disk at the folder; False where this process may not mount one."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={FAR_DISK_BYTES}", "tmpfs", str(folder)]
    try:
        return subprocess.run(command, check=False, capture_output=True).returncode == 0
    except FileNotFoundError:
        return False


class HubUnderFire:
    """The two machines, with the base model `tiny` and the dataset `rows` ready."""

    def __init__(self, folder: Path) -> None:
        for parent in (folder, folder.parent):
            parent.chmod(0o711)
        environment = {key: value for key, value in os.environ.items() if key not in OWN} | TIMES
        self.folder = folder
        self.main = RunningHub(folder / "home", environment)
        make_tiny_model(folder / "home" / "models" / "tiny")
        make_chat_rows(folder / "rows.jsonl", 64)
        self.main.start()
        self.far = FarMachine(self.main, folder)
        self.far.tend()
        self.token = self.main.new_token()
        with self.client() as client:
            client.import_base_model("tiny", "folder:tiny")
            client.push_dataset(folder / "rows.jsonl", "rows")
            self.until(lambda: client.base_models("tiny")[0].state == "ready", "the import of the base model")
        with self.database() as database:
            database.execute(WITNESS)
            for table in WITNESSED:
                database.execute(
                    f"CREATE TRIGGER chaos AFTER INSERT ON {table} FOR EACH ROW EXECUTE FUNCTION chaos_witness()"
                )

    def client(self) -> Hub:
        return Hub(self.main.state.url, self.token)

    def database(self) -> psycopg.Connection[dict[str, Any]]:
        url = load_environment(self.main.home)["DATABASE_URL"]
        return psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def patiently(self, ask: Callable[[Hub], Any]) -> Any:
        """What the hub answers, asked again while it is away."""
        give_up = time.monotonic() + PATIENCE_SECONDS
        while True:
            try:
                with self.client() as client:
                    return ask(client)
            except (HubError, AssertionError) as error:
                away = isinstance(error, AssertionError) or error.is_outage
                if not away or time.monotonic() > give_up:
                    raise
            self.tend()
            time.sleep(0.5)

    def tend(self) -> None:
        """Start again what this machine's init system would start again."""
        self.far.tend()
        if self.main.up[-1].poll() is not None:
            self.main.start()

    def until(self, holds: Callable[[], Any], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        give_up = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > give_up:
                raise TimeoutError(f"{what} did not happen in {seconds:.0f} s")
            self.tend()
            time.sleep(0.2)

    def processes(self) -> Iterator[tuple[int, str]]:
        """Those that belong to this hub, each with its command line."""
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and str(self.folder) in (words := command_line(int(entry.name))):
                yield int(entry.name), words

    def stop(self) -> None:
        self.far.stop()
        self.main.stop()

    def close(self) -> None:
        """After the checks: the far machine's disk goes."""
        self.far.unmount()
