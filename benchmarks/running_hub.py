"""A hub for the benchmark: started, queried and stopped through its commands, like by a user."""

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

# -P: use the product from PYTHONPATH or the environment, not from the current folder.
COMMAND = [sys.executable, "-P", "-m", "finetune_hub.cli.main"]
# Variables that would change the hub or point to another one.
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
        """Start the hub and wait until every part is ready."""
        command = [*COMMAND, "up", "--home", str(self.home), "--port", "0", "--worker-name", "bench"]
        with self.log.open("ab") as log:
            self.up = subprocess.Popen(command, env=self.environment, stdout=log, stderr=log)
        give_up = time.monotonic() + START_SECONDS
        while not self._status().get("healthy"):
            if self.up.poll() is not None or time.monotonic() > give_up:
                raise SystemExit(f"The hub did not start:\n{self.log.read_text()[-4000:]}")
            time.sleep(0.5)

    def status(self) -> dict[str, Any]:
        """Return its address, and its parts with their processes."""
        facts = self._status()
        if not facts.get("healthy"):
            raise SystemExit(f"The hub is not healthy: {json.dumps(facts)}")
        return facts

    def _status(self) -> dict[str, Any]:
        command = [*COMMAND, "status", "--home", str(self.home), "--json"]
        answer = subprocess.run(command, env=self.environment, stdout=subprocess.PIPE, check=False)
        facts: dict[str, Any] = json.loads(answer.stdout)
        return facts

    def variables(self) -> dict[str, str]:
        """Return the environment of its parts."""
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
    """Return a field of a client's answer: a model, or a dictionary from an earlier commit's client."""
    return answer[name] if isinstance(answer, dict) else getattr(answer, name)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without variables of another hub."""
    return {name: value for name, value in os.environ.items() if not name.startswith(OWN)}
