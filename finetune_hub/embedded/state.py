"""State of a running `up` for other terminals (run/up.json), and the lock against a second `up` in a home."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from finetune_hub.embedded import guard
from finetune_hub.embedded.children import Child, State
from finetune_hub.embedded.errors import HomeInUse
from finetune_hub.embedded.folders import write_private
from finetune_hub.machine.processes import ProcessIdentity


class HubPart(BaseModel):
    """A child of `up`."""

    name: str
    state: State
    since: float  # unix time
    restarts: int
    identity: ProcessIdentity | None
    log: Path

    @classmethod
    def of(cls, child: Child) -> HubPart:
        return cls(
            name=child.program.name,
            state=child.state,
            since=child.since,
            restarts=child.restarts,
            identity=child.identity,
            log=child.log,
        )

    def is_healthy(self) -> bool:
        """Return whether `up` reports it as ready and its process exists."""
        return self.state == "ready" and self.identity is not None and self.identity.is_alive()


class UpState(BaseModel):
    """A running `up` and its parts."""

    identity: ProcessIdentity
    url: str
    started_at: float  # unix time
    has_started: bool  # every part has been ready once
    sockets: dict[str, Path]
    parts: list[HubPart]

    def is_healthy(self) -> bool:
        return self.has_started and all(part.is_healthy() for part in self.parts)


def write_state(home: Path, state: UpState) -> None:
    write_private(_file(home), state.model_dump_json(indent=2))


def read_state(home: Path) -> UpState | None:
    """Return the `up` that is running in a home, or None."""
    state = _read(home)
    return state if state and state.identity.is_alive() else None


@contextmanager
def hold_lock(home: Path) -> Iterator[None]:
    """Lock this home for one `up`. The kernel releases the lock when the holder ends, however it ends.

    Raises:
        HomeInUse: another `up` holds it.
    """
    with (home / "run" / "up.lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            state = read_state(home)
            pid, url = (state.identity.pid, state.url) if state else ("unknown", "still starting")
            raise HomeInUse(home=home, pid=pid, url=url) from None
        try:
            yield
        finally:
            _file(home).unlink(missing_ok=True)


def end_leftovers(home: Path) -> None:
    """Stop what a killed `up` left in this home. Requires the lock. Postgres is handled by its own start."""
    state = _read(home)
    if state is None or state.identity.is_alive():
        return
    identities = [part.identity for part in state.parts if part.identity and part.name != "postgres"]
    guard.stop_all([(identity, signal.SIGTERM, signal.SIGKILL) for identity in identities])


def _read(home: Path) -> UpState | None:
    try:
        return UpState.model_validate_json(_file(home).read_text())
    except (OSError, ValidationError):
        return None


def _file(home: Path) -> Path:
    return home / "run" / "up.json"
