"""The hub and token to use, from the environment or from `finetune-hub login`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_hub.cli.client import Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.output import Json, print_json, reports_errors


@reports_errors
def login(
    url: Annotated[str, typer.Option(help="URL of the hub, such as http://127.0.0.1:8000.")],
    token: Annotated[
        str | None,
        typer.Option(help="The token; `-` reads it from stdin. Default: a prompt."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a token with a hub, and save both for the other commands."""
    if token is None:
        token = typer.prompt("Token", hide_input=True, err=True)
    elif token == "-":  # noqa: S105
        token = sys.stdin.readline()
    token = token.strip()
    with Hub(url, token) as hub:
        me = hub.me()
        save_credentials(hub.url, token)
    if as_json:
        print_json(me)
    else:
        print(f"Logged in to {hub.url} as {me.user} ({me.role} in {me.team}).")


def connect() -> Hub:
    """Return the hub of `FINETUNE_HUB_URL` and `FINETUNE_HUB_TOKEN`, or of the last login.

    A saved token is only sent to the URL it was saved for.

    Raises:
        HubError: `not_logged_in`.
    """
    url, token = os.environ.get("FINETUNE_HUB_URL"), os.environ.get("FINETUNE_HUB_TOKEN")
    if not (url and token):
        kept_url, kept_token = read_credentials()
        url = (url or kept_url or "").rstrip("/")
        token = token or (kept_token if url == kept_url else None)
    if not (url and token):
        raise HubError(
            "not_logged_in",
            f"There is no token for {url}." if url else "No hub is configured.",
            "Run `finetune-hub login --url URL`, or set FINETUNE_HUB_URL and FINETUNE_HUB_TOKEN.",
        )
    return Hub(url, token)


def credentials_path() -> Path:
    folder = Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser()
    return folder / "finetune-hub" / "credentials.json"


def save_credentials(url: str, token: str) -> None:
    """Save both in a file that only its owner can read, even while it is being written."""
    path = credentials_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump({"url": url, "token": token}, file)
    fresh.replace(path)


def read_credentials() -> tuple[str | None, str | None]:
    """Return the saved URL and token, or None, None.

    Raises:
        HubError: `file_unreadable`.
    """
    path = credentials_path()
    try:
        kept = json.loads(path.read_text())
        return str(kept["url"]), str(kept["token"])
    except FileNotFoundError:
        return None, None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HubError(
            "file_unreadable", f"{path} cannot be read.", "Delete it, then run `finetune-hub login --url URL`."
        ) from error
