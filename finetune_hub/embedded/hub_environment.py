"""The environment variables of the hub's parts. They are assembled only here."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

from finetune_hub.embedded.errors import NotRunning
from finetune_hub.embedded.folders import default_home, keep_secret, write_private
from finetune_hub.embedded.state import read_state

# The variables that a process needs to reach a hub.
NEEDED = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")
EVERY_ADDRESS = {"0.0.0.0", "::"}  # noqa: S104 (set by the admin with --host)


def build_environment(
    home: Path, *, database_url: str, redis_url: str, host: str, port: int, worker_name: str
) -> dict[str, str]:
    """Return the hub's variables. The admin's values win, except for the home and the servers' addresses."""
    given = os.environ.get
    url = given("FINETUNE_HUB_URL") or local_url(host, port)
    return {
        "DJANGO_SETTINGS_MODULE": given("DJANGO_SETTINGS_MODULE") or "finetune_hub.settings",
        "FINETUNE_HUB_HOME": str(home),
        "FINETUNE_HUB_URL": url,
        "FINETUNE_HUB_WORKER_NAME": worker_name,
        "DATABASE_URL": database_url,
        "REDIS_URL": redis_url,
        "ARTIFACT_URL": given("ARTIFACT_URL") or (home / "artifacts").as_uri(),
        "SECRET_KEY": given("SECRET_KEY") or keep_secret(home / "secret_key"),
        "ALLOWED_HOSTS": given("ALLOWED_HOSTS") or ",".join(own_names(host, url)),
        "PYTHONUNBUFFERED": "1",
    }


def save_environment(home: Path, environment: dict[str, str]) -> None:
    """Save the variables, including secrets, for other terminals of the same user."""
    write_private(home / "run" / "environment.json", json.dumps(environment, indent=2))


def load_environment(home: Path | None = None) -> dict[str, str]:
    """Return a complete environment for a process that uses the hub running in `home`.

    If no `up` is running there, return this process's environment if it names the servers, as in a container.

    Raises:
        NotRunning: neither is the case.
    """
    home = home or default_home()
    if read_state(home) is not None:
        saved: dict[str, str] = json.loads((home / "run" / "environment.json").read_text())
        return {**os.environ, **saved}
    if all(os.environ.get(name) for name in NEEDED):
        return {"DJANGO_SETTINGS_MODULE": "finetune_hub.settings", **os.environ}
    raise NotRunning(home=home)


def manage(home: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a Django command in the environment of the hub in `home`, and return its output and exit code.

    Raises:
        NotRunning: see `load_environment`.
    """
    command = [sys.executable, "-P", "-m", "django", *arguments]
    return subprocess.run(command, env=load_environment(home), stdout=subprocess.PIPE, text=True, check=False)


def local_url(host: str, port: int) -> str:
    """Return the URL for access from this machine."""
    name = "127.0.0.1" if host in EVERY_ADDRESS else host
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def own_names(host: str, url: str) -> list[str]:
    """Return the host names that browsers may use (Django's ALLOWED_HOSTS)."""
    public_name = urlsplit(url).hostname or ""
    names = ["localhost", "127.0.0.1", "[::1]", f"[{public_name}]" if ":" in public_name else public_name]
    if host in EVERY_ADDRESS:
        names.append(socket.gethostname())
        try:
            names += [str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)]
        except OSError:
            pass  # The machine cannot resolve its own name; the admin can set ALLOWED_HOSTS.
    return list(dict.fromkeys(name for name in names if name))
