"""What all downloads share: chunk size, retries, progress reports and the exit status."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import tenacity

from finetune_hub.machine.event_file import EventLog
from finetune_hub.machine.full_disk import is_full_disk
from finetune_hub.spec.events import EXIT_FAILED, EngineEvent, Failure, Log, Progress
from finetune_hub.spec.problem import Explained

CHUNK_BYTES = 1 << 20
TRIES = 5
MB = 10**6
REPORT_SECONDS = 1.0


class Reporter:
    """Reports the downloaded bytes, at most once per second."""

    def __init__(self, output_dir: Path) -> None:
        self._output_dir, self._due = output_dir, 0.0

    def __call__(self, done_bytes: int, total_bytes: int) -> None:
        if time.monotonic() >= self._due or done_bytes == total_bytes:
            self._due = time.monotonic() + REPORT_SECONDS
            report(self._output_dir, Progress(done=done_bytes // MB, total=total_bytes // MB, unit="MB"))


def report(output_dir: Path, event: EngineEvent) -> None:
    """Add the event to the folder's `events.jsonl`."""
    with EventLog(output_dir) as log:
        log.emit(event)


def going_on(output_dir: Path, *broken: type[Exception]) -> tenacity.Retrying:
    """Return a retry policy for such errors: TRIES times in total, with exponential backoff; each retry is reported."""

    def tell(state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None
        error = type(state.outcome.exception()).__name__
        report(output_dir, Log(level="warn", message=f"The download was interrupted ({error}); resuming."))

    return tenacity.Retrying(
        retry=tenacity.retry_if_exception(lambda error: isinstance(error, broken) and not is_full_disk(error)),
        stop=tenacity.stop_after_attempt(TRIES),
        wait=tenacity.wait_exponential(),
        before_sleep=tell,
        reraise=True,
    )


def ended(fetch: Callable[[], None], output_dir: Path) -> int:
    """Fetch, and return an exit status like the engine's; after a failure, the last event is the reason."""
    try:
        fetch()
    except Explained as error:
        report(output_dir, Failure.of(error.failed))
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0
