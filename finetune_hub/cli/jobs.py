"""`finetune-hub jobs`: submit, watch, and steer: pause, resume, preempt, cancel, retry, clone, priority."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml
from pydantic import ValidationError

from finetune_hub.cli import style
from finetune_hub.cli.answers import JobDetail, JobEvent
from finetune_hub.cli.client import Document, Hub
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.login import connect
from finetune_hub.cli.output import (
    Json,
    day,
    end_like,
    event_line,
    failure_line,
    print_json,
    print_table,
    published,
    reports_errors,
    wait_for,
)
from finetune_hub.cli.recipes import read_recipe
from finetune_hub.spec.merge_patch import merge_patch
from finetune_hub.spec.training import TrainingSpec

app = style.new_group("Jobs: submit a recipe, watch it, pause, resume, retry or cancel it.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, such as ftjob-7k2m….")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has ended; its state is the exit code.")]
Priority = Annotated[
    int, typer.Option(help="From -10 to 10; higher ones are placed first. Above 0 is for admins.", min=-10, max=10)
]
After = Annotated[str | None, typer.Option(metavar="ID", help="Start once this job has succeeded; fail when it fails.")]
AllowUnfit = Annotated[
    bool, typer.Option("--allow-unfit", help="Submit it although the planner says that it fits no device.")
]
Reason = Annotated[str, typer.Option(help="Why; a sentence for the job's history.")]


@app.command()
@reports_errors
def submit(
    recipe: Annotated[
        Path, typer.Argument(help="A training spec in YAML or JSON; or the options of another kind, with `kind: NAME`.")
    ],
    wait: Wait = False,
    priority: Priority = 0,
    after: After = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="The same key again submits nothing: it answers with the first job.")
    ] = None,
    allow_unfit: AllowUnfit = False,
    as_json: Json = False,
) -> None:
    """Submit a training job, or one of another kind."""
    read = read_recipe(recipe)
    kind = read.document.pop("kind", None)
    if kind and (priority or after or allow_unfit):
        message = f"A job of kind `{kind}` takes no --priority, --after or --allow-unfit."
        raise HubError("invalid_option", message, "Leave them out; `jobs priority` changes its priority afterwards.")
    with connect() as hub:
        try:
            if kind:
                job = hub.submit_of_kind(str(kind), read.document, idempotency_key=idempotency_key)
            else:
                job = hub.submit(
                    read.document,
                    priority=priority,
                    after=after,
                    idempotency_key=idempotency_key,
                    allow_unfit=allow_unfit,
                )
        except HubError as error:
            read.place(error)
            raise
        end_submission(hub, job, wait=wait, as_json=as_json)


@app.command()
@reports_errors
def clone(
    job_id: JobId,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", help="What differs, such as training.epochs=3. Repeatable."),
    ] = None,
    wait: Wait = False,
    priority: Priority = 0,
    after: After = None,
    allow_unfit: AllowUnfit = False,
    as_json: Json = False,
) -> None:
    """Submit a training like this one, over the same dataset versions."""
    with connect() as hub:
        job = hub.clone(job_id, read_changes(changes or []), priority=priority, after=after, allow_unfit=allow_unfit)
        end_submission(hub, job, wait=wait, as_json=as_json)


def end_submission(hub: Hub, job: JobDetail, *, wait: bool, as_json: bool) -> None:
    """Print the new job's id, or wait for the job."""
    if wait:
        print(job.id, file=sys.stderr)
        end_like(wait_for(hub, job.id), as_json=as_json)
    elif as_json:
        print_json(job)
    else:
        print(job.id)


def read_changes(texts: list[str]) -> Document:
    """`training.epochs=3` → `{"training": {"epochs": 3}}`; values are YAML.

    Raises:
        HubError: `invalid_change`.
    """
    changes: Document = {}
    for text in texts:
        place, equals, value = text.partition("=")
        names = place.split(".")
        try:
            parsed = yaml.safe_load(value)
        except yaml.YAMLError:
            equals = ""
        if not equals or not all(names):
            raise HubError("invalid_change", f"{text!r} changes nothing.", "Write `--set training.epochs=3`.")
        patch: Any = parsed
        for name in reversed(names):
            patch = {name: patch}
        changes = merge_patch(changes, patch)
    return changes


@app.command("list")
@reports_errors
def list_jobs(
    limit: Annotated[int, typer.Option(help="How many, newest first.", min=1)] = 20, as_json: Json = False
) -> None:
    """List the team's newest jobs."""
    with connect() as hub:
        jobs = hub.jobs(limit)
    if as_json:
        print_json(jobs)
        return
    print_table(
        ["ID", "KIND", "STATE", "BASE MODEL", "STEP", "BY", "CREATED", "WHY IT WAITS"],
        [
            (
                job.id,
                job.kind,
                job.state,
                job.base_model,
                f"{job.step}/{job.total_steps or '?'}",
                job.created_by,
                day(job.created_at),
                job.waiting_reason.partition(". ")[0] or "-",
            )
            for job in jobs
        ],
    )


@app.command()
@reports_errors
def show(job_id: JobId, as_json: Json = False) -> None:
    """Show one job."""
    with connect() as hub:
        job = hub.job(job_id)
    if as_json:
        print_json(job)
        return
    print(f"{job.id}  {job.kind}  {job.state}{published(job)}")
    print(f"base model  {job.base_model}")
    datasets = [f"{dataset.name}:{dataset.version}" for dataset in job.datasets]
    print(f"datasets    {', '.join(datasets) or '-'}")
    print(f"progress    {job.progress_unit} {job.step}/{job.total_steps or '?'}")
    for attempt in reversed(job.attempts):
        where = f"{attempt.state} on {attempt.worker}"
        print(f"attempt {attempt.number}   {where}  {failure_line(attempt)}".rstrip())
    if job.priority and job.finished_at is None:
        print(f"priority    {job.priority}")
    for field, value in job.adjustments.items():
        print(f"adjusted    {field}: {value}")
    if job.waiting_reason:
        print(f"waits       {job.waiting_reason}")
    if job.failure:
        print(f"failure     {failure_line(job)}")


@app.command()
@reports_errors
def recipe(job_id: JobId, as_json: Json = False) -> None:
    """Print a training job as a recipe, ready to be submitted again."""
    with connect() as hub:
        job = hub.job(job_id)
    try:
        document = TrainingSpec.model_validate(job.spec).model_dump(mode="json", exclude_none=True)
    except ValidationError:
        message = f"{job_id} is no training: its kind is {job.kind}."
        raise HubError("no_recipe", message, "Name a training job.") from None
    print_json(document) if as_json else print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


@app.command()
@reports_errors
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until the job has ended.")] = False,
    engine: Annotated[bool, typer.Option("--engine", help="The end of the engine's own output instead.")] = False,
    as_json: Json = False,
) -> None:
    """Print what happened to a job; with --json one object a line."""
    with connect() as hub:
        if engine:
            text = hub.log(job_id)
            print_json({"text": text}) if as_json else print(text, end="")
            return
        looks = (look.events for look in hub.watch(job_id)) if follow else iter([hub.events(job_id)])
        for events in looks:
            for event in events:
                print_event(event, as_json=as_json)


@app.command()
@reports_errors
def wait(job_id: JobId, as_json: Json = False) -> None:
    """Wait until a job has ended; its state is the exit code."""
    with connect() as hub:
        end_like(wait_for(hub, job_id), as_json=as_json)


@app.command()
@reports_errors
def pause(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Let a job rest. A running trainer writes a checkpoint first."""
    with connect() as hub:
        job = hub.pause(job_id, reason)
    is_paused = job.state == "paused"
    tell(job, "is paused." if is_paused else "is being paused: its trainer writes a checkpoint first.", as_json=as_json)


@app.command()
@reports_errors
def resume(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Queue a paused job again. It goes on from its newest checkpoint."""
    with connect() as hub:
        tell(hub.resume(job_id, reason), "goes on.", as_json=as_json)


@app.command()
@reports_errors
def preempt(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Take a job's devices back. It writes a checkpoint and waits at its old place in line. For admins."""
    with connect() as hub:
        job = hub.preempt(job_id, reason)
    is_queued = job.state == "queued"
    tell(job, "waits in line again." if is_queued else "will wait in line again, after a checkpoint.", as_json=as_json)


@app.command()
@reports_errors
def cancel(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Cancel a job. A running trainer writes a checkpoint first."""
    with connect() as hub:
        job = hub.cancel(job_id, reason)
    if job.state == "cancelled":
        said = "is cancelled."
    elif job.desired_state == "cancel":
        said = "is being cancelled: its trainer was asked to stop."
    else:
        said = f"had ended before: {job.state}."
    tell(job, said, as_json=as_json)


@app.command()
@reports_errors
def retry(
    job_id: JobId,
    from_step: Annotated[
        int | None,
        typer.Option(help="Start from the checkpoint of this step; 0: from the beginning. Default: the newest.", min=0),
    ] = None,
    wait: Wait = False,
    reason: Reason = "",
    as_json: Json = False,
) -> None:
    """Run a failed or cancelled job again, from a checkpoint."""
    with connect() as hub:
        job = hub.retry(job_id, from_step=from_step, reason=reason)
        if wait:
            end_like(wait_for(hub, job_id), as_json=as_json)
        else:
            start = f"step {job.checkpoints[0]}" if job.checkpoints else "the beginning"
            tell(job, f"runs again from {start}.", as_json=as_json)


@app.command()
@reports_errors
def priority(
    job_id: JobId,
    number: Annotated[int, typer.Argument(metavar="PRIORITY", help="From -10 to 10.", min=-10, max=10)],
    as_json: Json = False,
) -> None:
    """Give a waiting job another place in line. Negative numbers stand behind `--`."""
    with connect() as hub:
        job = hub.change_priority(job_id, number)
    tell(job, f"has priority {number}.", as_json=as_json)


def tell(job: JobDetail, said: str, *, as_json: bool) -> None:
    print_json(job) if as_json else print(f"{job.id} {said}")


def print_event(event: JobEvent, *, as_json: bool) -> None:
    print(json.dumps(event.model_dump()) if as_json else event_line(event), flush=True)
