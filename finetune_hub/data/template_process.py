"""Run a base model's chat template and tokenizer in a separate process that can be killed.

Both come from the user who imported the model. A template is a program, and a tokenizer's patterns can take exponential
time. Web, control and imports therefore use them only here, in two low-priority processes with limits on CPU time,
memory and output. A call that exceeds a limit ends its process and is refused, for a minute without another attempt; a
new process serves the next call. A trainer renders in its own process, which ends with its job.

    with_template(folder, revision, use, *args)        returns use(template, *args) for the work of one row
    with_template_long(folder, revision, use, *args)   the same for many rows, with the limit applied to each
"""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass
from functools import cache, lru_cache
from multiprocessing import get_context
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, TypeVar

from pebble import ProcessExpired, ProcessPool

from finetune_hub.data.chat_template import ChatTemplate, InvalidChatTemplate, NothingSupervised
from finetune_hub.data.encode import encode_row
from finetune_hub.data.rows import Row
from finetune_hub.data.token_statistics import MeasuredRow, measure
from finetune_hub.spec.refusal import Refusal

CPU_SECONDS = 10.0
"""Limit for loading a template and its tokenizer, and again for each row."""
MEMORY_BYTES = 2 << 30
REMEMBERED_SECONDS = 60.0
_NICENESS = 10
_SAMPLE = [
    {"role": "user", "content": "2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "And 1 more?"},
    {"role": "assistant", "content": "5"},
]
_FIX = "Simplify the chat template, and check it for endless loops."

Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class _Line:
    """Calls of similar length: one runs at a time, and the others wait."""

    place: BoundedSemaphore
    seconds: float
    patience: float


_SHORT = _Line(BoundedSemaphore(1), seconds=60.0, patience=10.0)
_LONG = _Line(BoundedSemaphore(1), seconds=180.0, patience=10.0)
_stopped: dict[tuple[Path, str], tuple[float, str]] = {}


class StoppedTemplate(InvalidChatTemplate):
    """The chat template exceeded a limit."""


def with_template(folder: Path, revision: str, use: Callable[..., Result], *args: Any) -> Result:
    """Call `use` with the template of a base model's folder and the other arguments, and return its result.

    Args:
        revision: The base model's, which is the key of the cached template.
        use: A function in a module without Django. Arguments and result are pickled.

    Raises:
        StoppedTemplate: it took too much time or memory, now or within the last minute.
        Refusal: `busy`, and what `use` raises, such as `InvalidChatTemplate`.
    """
    return _call(_SHORT, folder, revision, use, args)


def with_template_long(folder: Path, revision: str, use: Callable[..., Result], *args: Any) -> Result:
    """Like `with_template` for longer work: `use` iterates over its items with `each_in_time`."""
    return _call(_LONG, folder, revision, use, args)


def each_in_time(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items and restart the CPU limit for each."""
    for item in items:
        _start_clock(_cpu_seconds)
        yield item


def hash_of_template(template: ChatTemplate) -> str | None:
    """Return the hash of the template, or None without one."""
    return template.sha256 if template.has_chat_template else None


def hash_of_working_template(template: ChatTemplate) -> str:
    """Render a small conversation and return the hash of the template.

    Raises:
        InvalidChatTemplate: it cannot render the conversation.
    """
    if not any(template.encode(_SAMPLE).supervised):
        raise NothingSupervised("No token of an answer would be supervised.", "Make the template render answers.")
    return template.sha256


def measure_in_time(template: ChatTemplate, rows: Sequence[tuple[int, Row]]) -> list[MeasuredRow]:
    """Call `measure` with the CPU limit applied to each row."""
    return measure(template, each_in_time(rows))


def count_in_time(template: ChatTemplate, rows: Sequence[Row], max_seq_len: int) -> tuple[int, int]:
    """Count the truncated rows and the supervised tokens of all rows.

    Raises:
        InvalidChatTemplate: there is none, or it rejects a row.
    """
    encoded = [encode_row(template, row, max_seq_len) for row in each_in_time(rows)]
    return sum(row.truncated_tokens > 0 for row in encoded), sum(sum(row.supervised) for row in encoded)


def _call(line: _Line, folder: Path, revision: str, use: Callable[..., Result], args: tuple[Any, ...]) -> Result:
    known = _stopped.get((folder, revision))
    if known and known[0] > time.monotonic():
        raise StoppedTemplate(known[1], _FIX)
    if not line.place.acquire(timeout=line.patience):
        raise Refusal(
            "busy",
            "Other chat templates are being rendered at the moment.",
            "Try again in a minute.",
            kind="unavailable",
        )
    try:
        future = _pool().schedule(_use, args=[folder, revision, CPU_SECONDS, use, args], timeout=line.seconds)
        result: Result = future.result()
    except (TookTooLong, ProcessExpired) as stopped:
        message = _message_of(stopped)
        _remember(folder, revision, message)
        raise StoppedTemplate(message, _FIX) from stopped
    finally:
        line.place.release()
    return result


def _remember(folder: Path, revision: str, message: str) -> None:
    """Refuse the template for a while, and forget those for which that time is over."""
    now = time.monotonic()
    for key in [key for key, (until, _) in list(_stopped.items()) if until <= now]:
        _stopped.pop(key, None)
    _stopped[folder, revision] = (now + REMEMBERED_SECONDS, message)


def _message_of(stopped: Exception) -> str:
    if isinstance(stopped, ProcessExpired) and stopped.exitcode != -signal.SIGPROF:
        return f"The chat template or the tokenizer needed more than {MEMORY_BYTES / 1e9:.1f} GB of memory, or crashed."
    return f"The chat template or the tokenizer took more than {CPU_SECONDS:.0f} seconds and was stopped."


@cache
def _pool() -> ProcessPool:
    return ProcessPool(max_workers=2, initializer=_set_limits, context=get_context("spawn"))


# The code below runs in the separate process.

_cpu_seconds = CPU_SECONDS


def _set_limits() -> None:
    os.nice(_NICENESS)
    _, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _use(folder: Path, revision: str, cpu_seconds: float, use: Callable[..., Result], args: tuple[Any, ...]) -> Result:
    global _cpu_seconds
    _cpu_seconds = cpu_seconds
    try:
        _start_clock(cpu_seconds)
        template = _template(folder, revision)
        _start_clock(cpu_seconds)
        return use(template, *args)
    finally:
        _start_clock(0)


def _start_clock(cpu_seconds: float) -> None:
    """Let the kernel end the process by SIGPROF after this time, whatever code is running. 0 turns it off."""
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)


@lru_cache(maxsize=8)
def _template(folder: Path, revision: str) -> ChatTemplate:
    return ChatTemplate.from_folder(folder)
