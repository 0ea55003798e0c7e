"""A hub of the benchmark's own: started, asked and stopped by its commands, as anybody would."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from finetune_hub.cli.client import Hub

# -P: the product is what PYTHONPATH or the environment has, not what lies in the current folder.
COMMAND = [sys.executable, "-P", "-m", "finetune_hub.cli.main"]
# What would make another hub of it, or show it another one.
OWN = ("FINETUNE_HUB_", "DATABASE_URL", "REDIS_URL", "ARTIFACT_URL", "SECRET_KEY", "ALLOWED_HOSTS")
START_SECONDS = 180.0
STOP_SECONDS = 60.0


class RunningHub:
    """An embedded hub in `home`, on a free port, with one worker."""

    def __init__(self, home: Path, environment: dict[str, str]) -> None:
        self.home = home
        self.environment = environment
        self.log = home.with_suffix(".log")
        self.up: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Return when every part is ready."""
        command = [*COMMAND, "up", "--home", str(self.home), "--port", "0", "--worker-name", "bench"]
        with self.log.open("ab") as log:
            self.up = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not self._status().get("healthy"):
            if self.up.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"The hub did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.5)

    def status(self) -> dict[str, Any]:
        """Its address, and its parts with their processes."""
        facts = self._status()
        if not facts.get("healthy"):
            raise SystemExit(f"The hub is not well: {json.dumps(facts)}")
        return facts

    def _status(self) -> dict[str, Any]:
        command = [*COMMAND, "status", "--home", str(self.home), "--json"]
        answer = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=False)
        facts: dict[str, Any] = json.loads(answer.stdout)
        return facts

    def variables(self) -> dict[str, str]:
        """What its parts' environment has."""
        saved: dict[str, str] = json.loads((self.home / "run" / "environment.json").read_text())
        return saved

    def client(self) -> Hub:
        return Hub(self.variables()["FINETUNE_HUB_URL"], self.new_token())

    def new_token(self) -> str:
        command = [sys.executable, "-P", "-m", "django", "create_token"]
        environment = self.environment | self.variables()
        return subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()

    def stop(self) -> None:
        if self.up and self.up.poll() is None:
            self.up.send_signal(signal.SIGTERM)
            self.up.wait(STOP_SECONDS)


def part_of(answer: Any, name: str) -> Any:
    """A part of what a client answers: a model, or a dictionary from the client of an earlier commit."""
    return answer[name] if isinstance(answer, dict) else getattr(answer, name)


def clean_environment() -> dict[str, str]:
    """This process's environment without what belongs to another hub."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
