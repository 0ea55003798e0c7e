"""What all downloads share: chunk size, retries, progress reports, the time limit and the exit status."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tenacity

from finetune_hub.machine.event_file import EventLog
from finetune_hub.machine.full_disk import is_full_disk
from finetune_hub.spec.duration import written_duration
from finetune_hub.spec.events import EXIT_FAILED, EngineEvent, Failure, Log, Progress
from finetune_hub.spec.problem import Explained, Failed

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


@contextmanager
def time_limit(max_seconds: float | None, output_dir: Path) -> Iterator[None]:
    """End this process when the time is over, whatever it is doing; the last event is then the reason.

    A timeout per read would not do: a server that sends a byte every few seconds never exceeds it.
    """
    if max_seconds is None:
        yield
        return
    timer = threading.Timer(max_seconds, _end_process, [max_seconds, output_dir])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _end_process(max_seconds: float, output_dir: Path) -> None:
    message = f"The download was not complete after {written_duration(round(max_seconds))}, and was stopped."
    remedy = "Choose a faster source, or download the file yourself and upload it."
    report(output_dir, Failure.of(Failed("bad_config", message, remedy)))  # Not retried: it would be as slow again.
    print(message, file=sys.stderr, flush=True)
    os._exit(EXIT_FAILED)


def ended(fetch: Callable[[], None], output_dir: Path, *, max_seconds: float | None = None) -> int:
    """Fetch, and return an exit status like the engine's; after a failure, the last event is the reason."""
    try:
        with time_limit(max_seconds, output_dir):
            fetch()
    except Explained as error:
        report(output_dir, Failure.of(error.failed))
        print(error, file=sys.stderr)
        return EXIT_FAILED
    return 0
