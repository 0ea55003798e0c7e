"""`finetune-hub demo`: from nothing to a trained adapter, through the same API and queue as all jobs.

It starts the hub if none is running, imports a small real model, trains it to convert support tickets to JSON, and
compares base model and adapter on tickets with names and order numbers that are not in the training data.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import unquote, urlsplit

import typer

from finetune_hub.cli import style
from finetune_hub.cli.answers import BaseModelDetail, JobDetail
from finetune_hub.cli.client import Document, Hub
from finetune_hub.cli.output import EXIT_JOB_FAILED, failure_of, size, wait_for
from finetune_hub.data.sample_tickets import write_tickets
from finetune_hub.embedded.folders import default_home, prepare_home
from finetune_hub.embedded.hub_environment import manage
from finetune_hub.embedded.state import UpState, read_state
from finetune_hub.spec.problem import Problem
from finetune_hub.spec.run import EvaluateResult, EvaluateSample

BASE_MODEL = "smollm2-135m-instruct"
DATASET, HELD_OUT = "support-tickets", "support-tickets-held-out"
TRAINED_ROWS, HELD_OUT_ROWS, SHOWN_ROWS = 600, 40, 3
ANSWER_TOKENS = 64  # Twice what an answer needs, as the base model would not stop by itself.
START_SECONDS = 120.0
SPEC: Document = {
    "base_model": BASE_MODEL,
    "dataset": {"name": DATASET},
    "adapter_name": DATASET,
    "training": {
        "epochs": 1,
        "micro_batch_size": 8,
        "learning_rate": 5e-4,
        "max_seq_len": 256,
        "checkpoint_every_steps": 10,
    },
}


def demo(
    home: Annotated[Path | None, typer.Option(help="Folder of the hub's data. Default: ~/.finetune-hub.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the dashboard. Default: the first free one.")] = None,
    exit_at_end: Annotated[bool, typer.Option("--exit", help="Stop the hub at the end.")] = False,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result to this file.")] = None,
) -> None:
    """Start the hub, train a real adapter on sample tickets, and show what it learnt. Leaves the hub running."""
    began = time.monotonic()
    folder = (home.expanduser() if home else default_home()).absolute()
    prepare_home(folder)
    started = read_state(folder) is None
    state = start_hub(folder, port)
    try:
        with Hub(state.url, new_token(folder)) as hub:
            outcome = run(hub, folder)
        outcome["seconds"] = round(time.monotonic() - began, 1)
        if json_file:
            json_file.write_text(json.dumps(outcome, indent=2) + "\n")
    finally:
        if exit_at_end and started:
            finetune_hub("down", "--home", str(folder))
    adapter_dir = style.literal(outcome["adapter_dir"])
    style.say(f"\nDone in {outcome['seconds']:.0f} s. The adapter is in [bold]{adapter_dir}[/bold]")
    if not (exit_at_end and started):
        say_farewell(folder, state, outcome)


def run(hub: Hub, folder: Path) -> dict[str, Any]:
    """Import, upload, train, evaluate. Returns what `--json` writes, except the seconds."""
    style.say(f"\n[bold]1. Base model[/bold]  {BASE_MODEL}, 135 million parameters, Apache-2.0")
    base_model = import_base_model(hub)
    style.say(f"\n[bold]2. Data[/bold]  {TRAINED_ROWS} tickets to train on, {HELD_OUT_ROWS} held out")
    samples = folder / "samples"
    hub.push_dataset(write_tickets(samples / "support-tickets.jsonl", "train", TRAINED_ROWS), DATASET)
    hub.push_dataset(write_tickets(samples / "held-out.jsonl", "held_out", HELD_OUT_ROWS), HELD_OUT)
    style.say("\n[bold]3. Training[/bold]  LoRA on every linear layer, one pass over the rows")
    trained = finished(hub, hub.submit(SPEC))
    assert trained.published is not None  # True of every training that succeeded.
    adapter = hub.adapter(trained.published.adapter_id, trained.published.version)
    style.say("\n[bold]4. Evaluation[/bold]  every held-out ticket, with and without the adapter")
    submitted = hub.evaluate(adapter.adapter_id, HELD_OUT, adapter_version=adapter.number, max_new_tokens=ANSWER_TOKENS)
    result = EvaluateResult.model_validate(finished(hub, submitted).result)
    show_samples(result)
    return {
        "job_id": trained.id,
        "state": trained.state,
        "adapter_dir": local_folder(adapter.artifact_url),
        "base_model_dir": local_folder(base_model.artifact_url or ""),
        "base_exact_match": result.base_exact_match,
        "adapter_exact_match": result.adapter_exact_match,
        "rows_trained": TRAINED_ROWS,
    }


def start_hub(folder: Path, port: int | None) -> UpState:
    """Return the hub that runs in the folder; start it in the background if none does.

    Raises:
        CommandError: it does not start.
    """
    state = read_state(folder)
    if state is not None and state.is_healthy():
        style.say(f"The hub is already running at [bold]{style.literal(state.url)}[/bold].")
        return state
    style.say("Starting the hub: Postgres, Valkey, web, scheduler and a worker …")
    log = folder / "logs" / "up.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    port_options = ["--port", str(port)] if port else []
    with log.open("ab") as file:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "finetune_hub.cli.main", "up", "--home", str(folder), *port_options],
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    began = time.monotonic()
    while time.monotonic() - began < START_SECONDS:
        state = read_state(folder)
        if state is not None and state.is_healthy():
            style.tick("hub", time.monotonic() - began)
            return state
        if process.poll() is not None:
            last_words = log.read_text(errors="replace").strip().splitlines()[-2:]
            raise style.CommandError(" ".join(last_words) or "The hub did not start.", f"See {log}.")
        time.sleep(0.1)
    raise style.CommandError(f"The hub did not start in {START_SECONDS:.0f} s.", f"See the logs in {log.parent}.")


def import_base_model(hub: Hub) -> BaseModelDetail:
    """Return the base model; import it first if the hub does not have it."""
    known = hub.base_models(BASE_MODEL)
    if not known or known[0].state == "failed":
        finished(hub, hub.job(hub.import_base_model(BASE_MODEL).job_id))
        known = hub.base_models(BASE_MODEL)
    facts = hub.base_model(known[0].id)
    style.say(f"  [green]✓[/green] ready, {size(facts.facts['size_bytes'])}")
    return facts


def finished(hub: Hub, job: JobDetail) -> JobDetail:
    """Wait for the job and return it.

    Raises:
        CommandError: it did not succeed.
    """
    ended = wait_for(hub, job.id)
    if ended.state != "succeeded":
        failed = failure_of(ended) or Problem(ended.state, f"The job was {ended.state}.", "Run the demo again.")
        raise style.CommandError(failed.message, failed.remedy, exit_code=EXIT_JOB_FAILED)
    return ended


def show_samples(result: EvaluateResult) -> None:
    """Show three held-out tickets before and after, and the share of exact answers."""
    from rich.table import Table

    table = Table(
        title="Tickets that are not in the training data", title_justify="left", show_lines=True, expand=False
    )
    for heading in ("Ticket", "Base model", "With the adapter"):
        table.add_column(heading, max_width=48, overflow="fold")
    for sample in result.samples[:SHOWN_ROWS]:
        correct = sample.adapter == sample.expected
        mark = "[green]✓[/green] " if correct else "[red]✗[/red] "
        table.add_row(
            style.literal(ticket_of(sample)),
            style.literal(shortened(sample.base)),
            mark + style.literal(shortened(sample.adapter)),
        )
    style.say()
    style.console().print(table)
    base, adapter = result.base_exact_match, result.adapter_exact_match
    shares = f"base [bold]{base:.0%}[/bold], adapter [bold]{adapter:.0%}[/bold]"
    style.say(f"Exact match on {result.rows} held-out tickets: {shares}")


def ticket_of(sample: EvaluateSample) -> str:
    """Return the last user message of the rendered prompt."""
    return sample.prompt.split("<|im_start|>user\n")[-1].split("<|im_end|>")[0]


def shortened(text: str, length: int = 160) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def local_folder(artifact_url: str) -> str:
    """Return the folder in a local artifact store, or the URL of any other store."""
    return unquote(urlsplit(artifact_url).path) if artifact_url.startswith("file://") else artifact_url


def new_token(folder: Path) -> str:
    """Create a token of the first owner for this demo."""
    return manage(folder, "create_token", "--name", "demo", "--days", "1").stdout.strip()


def say_farewell(folder: Path, state: UpState, outcome: dict[str, Any]) -> None:
    page = f"/jobs/{outcome['job_id']}/"
    link = manage(folder, "login_link", "--base-url", state.url, "--next", page).stdout.strip()
    style.say(f"The dashboard is running: [bold]{style.literal(link)}[/bold] [dim](works once)[/dim]")
    style.say(f"Stop it with [bold]finetune-hub down --home {style.literal(folder)}[/bold]")


def finetune_hub(*arguments: str) -> None:
    """Run another command of this program."""
    subprocess.run([sys.executable, "-P", "-m", "finetune_hub.cli.main", *arguments], env=os.environ, check=True)
