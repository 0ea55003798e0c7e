"""`finetune-hub jobs`: submit, watch, pause, resume, preempt, cancel, retry, clone, set the priority, delete."""

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
from finetune_hub.cli.deleting import Yes, delete_after_asking
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

app = style.new_group("Jobs: submit a recipe, watch, pause, resume, retry, cancel or delete a job.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job, such as ftjob-7k2m….")]
Wait = Annotated[bool, typer.Option("--wait", help="Wait until the job has ended. The exit code shows its state.")]
Priority = Annotated[
    int, typer.Option(help="From -10 to 10; higher starts first. Only admins can set more than 0.", min=-10, max=10)
]
After = Annotated[
    str | None, typer.Option(metavar="ID", help="Wait for this job to succeed. If it fails, this one fails too.")
]
AllowUnfit = Annotated[
    bool, typer.Option("--allow-unfit", help="Submit it even if the planner says that it fits on no device.")
]
Reason = Annotated[str, typer.Option(help="A reason for the job's history.")]


@app.command()
@reports_errors
def submit(
    recipe: Annotated[
        Path, typer.Argument(help="A training spec in YAML or JSON, or options of another job kind with `kind: NAME`.")
    ],
    wait: Wait = False,
    priority: Priority = 0,
    after: After = None,
    idempotency_key: Annotated[
        str | None, typer.Option(help="A repeated key returns the first job instead of submitting another.")
    ] = None,
    allow_unfit: AllowUnfit = False,
    as_json: Json = False,
) -> None:
    """Submit a training, or a job of another kind."""
    read = read_recipe(recipe)
    kind = read.document.pop("kind", None)
    if kind and (priority or after or allow_unfit):
        message = f"--priority, --after and --allow-unfit do not work for a job of kind `{kind}`."
        raise HubError(
            "invalid_option", message, "Leave them out. You can change the priority afterwards with `jobs priority`."
        )
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
        typer.Option("--set", metavar="FIELD=VALUE", help="A change, such as training.epochs=3. Repeatable."),
    ] = None,
    wait: Wait = False,
    priority: Priority = 0,
    after: After = None,
    allow_unfit: AllowUnfit = False,
    as_json: Json = False,
) -> None:
    """Submit a copy of this training, with the same dataset versions."""
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
    """Parse `training.epochs=3` into `{"training": {"epochs": 3}}`. Values are YAML.

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
            raise HubError(
                "invalid_change", f"{text!r} is not FIELD=VALUE.", "Use, for example, `--set training.epochs=3`."
            )
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
    """Print a training job as a recipe that can be submitted again."""
    with connect() as hub:
        job = hub.job(job_id)
    try:
        document = TrainingSpec.model_validate(job.spec).model_dump(mode="json", exclude_none=True)
    except ValidationError:
        message = f"{job_id} is not a training; its kind is {job.kind}."
        raise HubError("no_recipe", message, "Choose a training job.") from None
    print_json(document) if as_json else print(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), end="")


@app.command()
@reports_errors
def logs(
    job_id: JobId,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Continue until the job has ended.")] = False,
    engine: Annotated[bool, typer.Option("--engine", help="Show the end of the engine's output instead.")] = False,
    as_json: Json = False,
) -> None:
    """Print a job's events. With --json, prints one object per line."""
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
    """Wait until a job has ended. The exit code shows its state."""
    with connect() as hub:
        end_like(wait_for(hub, job_id), as_json=as_json)


@app.command()
@reports_errors
def pause(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Pause a job. A running training writes a checkpoint first."""
    with connect() as hub:
        job = hub.pause(job_id, reason)
    is_paused = job.state == "paused"
    tell(job, "is paused." if is_paused else "is being paused. It writes a checkpoint first.", as_json=as_json)


@app.command()
@reports_errors
def resume(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Queue a paused job again. It continues from its newest checkpoint."""
    with connect() as hub:
        tell(hub.resume(job_id, reason), "continues.", as_json=as_json)


@app.command()
@reports_errors
def preempt(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Take back a job's devices. It writes a checkpoint and keeps its place in the queue. For admins."""
    with connect() as hub:
        job = hub.preempt(job_id, reason)
    is_queued = job.state == "queued"
    tell(job, "is queued again." if is_queued else "will be queued again after a checkpoint.", as_json=as_json)


@app.command()
@reports_errors
def cancel(job_id: JobId, reason: Reason = "", as_json: Json = False) -> None:
    """Cancel a job. A running training writes a checkpoint first."""
    with connect() as hub:
        job = hub.cancel(job_id, reason)
    if job.state == "cancelled":
        said = "is cancelled."
    elif job.desired_state == "cancel":
        said = "is being cancelled. It writes a checkpoint first."
    else:
        said = f"had already ended: {job.state}."
    tell(job, said, as_json=as_json)


@app.command()
@reports_errors
def retry(
    job_id: JobId,
    from_step: Annotated[
        int | None,
        typer.Option(help="Resume from the checkpoint at this step; 0: start over. Default: the newest.", min=0),
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
def delete(job_id: JobId, yes: Yes = False, as_json: Json = False) -> None:
    """Delete a job that has ended. It can be restored for a time. What it published is kept."""
    with connect() as hub:
        delete_after_asking(hub, f"jobs/{job_id}", job_id, yes=yes, as_json=as_json)


@app.command()
@reports_errors
def priority(
    job_id: JobId,
    number: Annotated[int, typer.Argument(metavar="PRIORITY", help="From -10 to 10.", min=-10, max=10)],
    as_json: Json = False,
) -> None:
    """Change the priority of a job. Write negative numbers after `--`."""
    with connect() as hub:
        job = hub.change_priority(job_id, number)
    tell(job, f"has priority {number}.", as_json=as_json)


def tell(job: JobDetail, said: str, *, as_json: bool) -> None:
    print_json(job) if as_json else print(f"{job.id} {said}")


def print_event(event: JobEvent, *, as_json: bool) -> None:
    print(json.dumps(event.model_dump()) if as_json else event_line(event), flush=True)
