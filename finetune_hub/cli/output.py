"""Output and exit codes of the client's commands: results on stdout, progress and errors on stderr.

Exit codes, for pipelines:
    0 success   1 a bug in this program   2 wrong usage   3 invalid input   4 the job failed   5 the job was cancelled
    6 the hub was unreachable or failed: try again
"""

from __future__ import annotations

import functools
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any, ParamSpec

import typer
from pydantic_core import to_jsonable_python

from finetune_hub.cli import style
from finetune_hub.cli.answers import Attempt, JobDetail, JobEvent
from finetune_hub.cli.client import Hub, JobLook
from finetune_hub.cli.connection import HubError
from finetune_hub.spec.measures import MEASURES
from finetune_hub.spec.problem import Problem
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.sizes import size_in_words

EXIT_BAD_INPUT = 3
EXIT_JOB_FAILED = 4
EXIT_JOB_CANCELLED = 5
EXIT_UNREACHABLE = 6
SHOWN_DETAILS = 10
PLAIN_LINE_EVERY_SECONDS = 10.0

Json = Annotated[bool, typer.Option("--json", help="Print JSON, including errors.")]
Arguments = ParamSpec("Arguments")


def reports_errors(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Decorate a command so that a refusal is printed with its remedy and gives an exit code."""

    @functools.wraps(command)
    def reporting(*arguments: Arguments.args, **options: Arguments.kwargs) -> None:
        try:
            command(*arguments, **options)
        except Refusal as error:
            print_refusal(error, as_json=bool(options.get("as_json")))
            is_outage = isinstance(error, HubError) and error.is_outage
            raise typer.Exit(EXIT_UNREACHABLE if is_outage else EXIT_BAD_INPUT) from error

    return reporting


def print_refusal(refusal: Refusal, *, as_json: bool) -> None:
    """Print the refusal on stderr, with its other defects."""
    print_problem(refusal.problem, refusal.details, as_json=as_json)
    if as_json or refusal.code == "unknown_format":
        return  # Its details are columns, which are in the message.
    for detail in refusal.details[1:SHOWN_DETAILS]:
        column = f", column {detail['column']}" if detail.get("column") else ""
        place = f"line {detail['line']}{column}: " if detail.get("line") else ""
        field = f"`{'.'.join(map(str, detail['loc']))}` " if detail.get("loc") else ""
        print(f"  {place}{field}{detail['message']}. {detail.get('remedy', '')}".rstrip(), file=sys.stderr)
    if len(refusal.details) > SHOWN_DETAILS:
        print(f"  and {len(refusal.details) - SHOWN_DETAILS} more", file=sys.stderr)


def print_problem(problem: Problem, details: Sequence[dict[str, Any]] = (), *, as_json: bool) -> None:
    """Print the problem on stderr as a message and a remedy, or as the API's JSON."""
    if as_json:
        body = {key: getattr(problem, key) for key in ("code", "message", "remedy", "field")}
        print(json.dumps({"error": body | {"details": list(details)}}), file=sys.stderr)
    else:
        style.say_problem(problem)


def print_json(value: Any) -> None:
    print(json.dumps(to_jsonable_python(value), indent=2))


def print_table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print aligned columns without truncation, for people, `grep` and `awk`."""
    lines = [[str("-" if cell is None else cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(headings, *lines, strict=True)]
    for line in [list(headings), *lines]:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def size(size_bytes: int | None) -> str:
    """Format a size; `-` if unknown."""
    return "-" if size_bytes is None else size_in_words(size_bytes)


def slug_of(words: str) -> str:
    """Derive a name that the hub accepts: `Support Tickets` → `support-tickets`."""
    return re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:64].strip("-")


def day(timestamp: str | None) -> str:
    """Format an API timestamp as `2026-01-31 12:00`, in UTC."""
    return timestamp[:16].replace("T", " ") if timestamp else "-"


# ---- waiting for a job


def wait_for(hub: Hub, job_id: str) -> JobDetail:
    """Show the job's progress on stderr until it has ended: a bar on a terminal, plain lines elsewhere.

    Returns:
        The ended job.
    """
    show = _show_bar if sys.stderr.isatty() else _show_lines
    return show(hub.watch(job_id))


def end_like(job: JobDetail, *, as_json: bool) -> None:
    """Print the ended job and exit with the code of its state."""
    if as_json:
        print_json(job)
    elif job.state == "succeeded":
        print(f"{job.id} succeeded{published(job)}")
    if job.state == "failed" and (failed := failure_of(job)):
        style.say_problem(replace(failed, message=f"{job.id} failed ({failed.code}): {failed.message}"))
    elif job.state == "cancelled":
        print(f"{job.id} was cancelled.", file=sys.stderr)
    code = {"failed": EXIT_JOB_FAILED, "cancelled": EXIT_JOB_CANCELLED}.get(job.state, 0)
    if code:
        raise typer.Exit(code)


def failure_of(row: JobDetail | Attempt) -> Problem | None:
    """Return why a job or attempt failed; None if it did not."""
    failure = row.failure
    return Problem(failure.failure_class, failure.message, failure.remedy) if failure else None


def failure_line(row: JobDetail | Attempt) -> str:
    """Return `diverged: Step 3 has the loss nan. Lower the learning rate.`; empty without a failure."""
    failed = failure_of(row)
    return f"{failed.code}: {failed}" if failed else ""


def published(job: JobDetail) -> str:
    adapter = job.published
    return f": adapter {adapter.name}:{adapter.version} ({adapter.adapter_id})" if adapter else ""


def progress_line(progress: JobLook) -> str:
    """Return `steps 12/100, loss 1.2345, 0:01:05 left`, as far as known, with the objective's other measures."""
    job = progress.job
    if not job.total_steps:
        return str(job.waiting_reason or job.state)
    parts = [f"{job.progress_unit} {job.step}/{job.total_steps}"]
    if progress.newest:
        parts += measures(progress.newest.loss, progress.newest.model_dump())
    if job.eta_seconds is not None:
        parts.append(f"{timedelta(seconds=round(job.eta_seconds))} left")
    return ", ".join(parts)


def measures(loss: float | None, values: Mapping[str, Any]) -> list[str]:
    """Return `loss 1.2345` and the objective's other measures, such as `margin 0.123` and `accuracy 88%`."""
    shown = [f"loss {loss:.4f}"] if loss is not None else []
    found = ((measure, values.get(name)) for name, measure in MEASURES.items())
    return shown + [measure.in_words(value) for measure, value in found if value is not None]


def event_line(event: JobEvent) -> str:
    mark = {"warn": "warning: ", "error": "error: "}.get(event.level, "")
    return f"{event.created_at[11:19]}  {mark}{event.message}"


def _show_lines(looks: Iterable[JobLook]) -> JobDetail:
    said_at = time.monotonic()
    for look in looks:
        for event in look.events:
            print(event_line(event), file=sys.stderr, flush=True)
        if look.points and time.monotonic() - said_at > PLAIN_LINE_EVERY_SECONDS:
            said_at = time.monotonic()
            print(progress_line(look), file=sys.stderr, flush=True)
    return look.job


def _show_bar(looks: Iterable[JobLook]) -> JobDetail:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.fields[state]}"), BarColumn(), TextColumn("{task.description}"))
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, state="")
        for look in looks:
            for event in look.events:
                console.print(event_line(event), markup=False)
            total, step = look.job.total_steps, look.job.step
            bar.update(task, total=total, completed=step, description=progress_line(look), state=look.job.state)
    return look.job
