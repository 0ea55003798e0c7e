"""`finetune-hub train`: run a recipe on this machine, without a hub.

The engine runs as its own process; this one shows its progress. Ctrl-C stops it with a checkpoint. After the training,
a new process reloads the adapter from its files and compares it with the trainer (P5), as on a hub.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.cli.base_model import find_base_model
from finetune_hub.cli.connection import HubError
from finetune_hub.cli.engine_process import EngineProcess
from finetune_hub.cli.output import (
    EXIT_BAD_INPUT,
    EXIT_JOB_CANCELLED,
    EXIT_JOB_FAILED,
    Json,
    print_problem,
    reports_errors,
    size,
)
from finetune_hub.cli.recipes import Recipe, read_recipe
from finetune_hub.cli.training_progress import RunSoFar, follow
from finetune_hub.machine.event_file import EVENTS_FILE, read_events
from finetune_hub.spec.document_defects import refuse_document
from finetune_hub.spec.events import EXIT_STOPPED, Failure, Log, Plan, Step
from finetune_hub.spec.problem import Problem
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.run import DatasetFile, DeviceKind, TrainResult, TrainRun, VerifyResult, VerifyRun
from finetune_hub.spec.training import TrainingSpec

SKIPPED_STEPS = 2  # Warm-up steps that do not count for the speed.
BAD_INPUT_CLASSES = {"bad_config", "bad_data"}


@reports_errors
def train(
    recipe: Annotated[Path, typer.Argument(help="A training spec in YAML; paths in it are relative to the file.")],
    output: Annotated[Path, typer.Option(help="Folder for adapter, checkpoints and events.")],
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the newest checkpoint in --output.")] = False,
    device: Annotated[str, typer.Option(help="cpu or cuda. Default: cuda if there is an NVIDIA GPU.")] = "",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Train a recipe on this machine, without the hub. Prints the adapter's folder."""
    read = read_recipe(recipe)
    spec = parse_spec(read)
    output = output.absolute()
    checkpoint = choose_start(output, resume=resume)
    chosen: DeviceKind = "cuda" if (device or found_device()) == "cuda" else "cpu"
    datasets = dataset_files(read, spec)
    run = TrainRun(
        spec=spec,
        base_model_dir=base_model_folder(read, spec),
        base_model_name=spec.base_model,
        datasets=datasets,
        output_dir=output,
        resume_from=checkpoint,
        device=chosen,
        threads=threads,
    )
    engine = EngineProcess("train", run, output)
    progress = follow(engine, f"finetune-hub train {recipe} --output {output} --resume")
    end_unless_succeeded(engine, progress, as_json=as_json)
    verified = verify(run, as_json=as_json)
    result = TrainResult.model_validate_json((output / "result.json").read_bytes())
    summary = summarise(output, result, engine.peak_rss_bytes, chosen)
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary, result, verified)


# ---- what the recipe names


def parse_spec(read: Recipe) -> TrainingSpec:
    """Parse the recipe into a spec.

    Raises:
        Refusal: `invalid_recipe`, with the line of each defect.
    """
    try:
        return TrainingSpec.model_validate(read.document)
    except ValidationError as error:
        refusal = refuse_document(error, TrainingSpec, "invalid_recipe")
        read.place(refusal, field=refusal.field or "base_model")
        raise refusal from error


def dataset_files(read: Recipe, spec: TrainingSpec) -> list[DatasetFile]:
    """Return the recipe's data files.

    Raises:
        HubError: `invalid_recipe`, if a dataset is registered in a hub or a file does not exist.
    """
    files = []
    for number, choice in enumerate(spec.datasets):
        place = f"datasets.{number}"
        if choice.path is None:
            raise refused_at(
                read, place, f"the dataset {choice.name!r} is registered in a hub", "Use the `path` of a file."
            )
        path = (read.path.parent / choice.path).absolute()
        if not path.is_file():
            raise refused_at(read, place, f"there is no file {path}", "Check the `path`; it is relative to the recipe.")
        files.append(DatasetFile(path=path, sha256=sha256_of(path), weight=choice.weight))
    return files


def base_model_folder(read: Recipe, spec: TrainingSpec) -> Path:
    """Return the base model's folder. See `cli.base_model` for the names a recipe may use.

    Raises:
        Refusal: there is no such model; with the recipe's line.
    """
    try:
        return find_base_model(spec.base_model, relative_to=read.path.parent)
    except Refusal as refusal:
        read.place(refusal, field="base_model")
        raise


def refused_at(read: Recipe, field: str, what: str, remedy: str) -> HubError:
    refusal = HubError("invalid_recipe", f"{what}.", remedy)
    read.place(refusal, field=field)
    return refusal


def choose_start(output: Path, *, resume: bool) -> Path | None:
    """Return the checkpoint to resume from; None for a new run.

    Raises:
        HubError: `target_exists` or `nothing_to_resume`.
    """
    checkpoints = sorted(output.glob("checkpoints/step-*"), key=lambda folder: int(folder.name.partition("-")[2]))
    if resume and not checkpoints:
        raise HubError("nothing_to_resume", f"{output} has no checkpoint.", "Leave out `--resume` to start the run.")
    if not resume and (output / EVENTS_FILE).exists():
        raise HubError(
            "target_exists", f"{output} already has a run.", "Continue it with `--resume`, or choose another folder."
        )
    return checkpoints[-1] if resume else None


def found_device() -> str:
    return "cuda" if Path("/dev/nvidia0").exists() else "cpu"


# ---- how it ends


def end_unless_succeeded(engine: EngineProcess, progress: RunSoFar, *, as_json: bool) -> None:
    """Exit with a message and an exit code if the run did not succeed."""
    if engine.exit_status == 0:
        return
    if progress.failure is not None:
        print_problem(progress.failure, as_json=as_json)
        raise typer.Exit(EXIT_BAD_INPUT if progress.failure.code in BAD_INPUT_CLASSES else EXIT_JOB_FAILED)
    if engine.exit_status == EXIT_STOPPED:
        steps = progress.steps
        print(
            f"Stopped after step {steps[-1].step}. Continue with\n  {progress.resume_command}" if steps else "Stopped.",
            file=sys.stderr,
        )
        raise typer.Exit(EXIT_JOB_CANCELLED)
    message = f"The engine ended with status {engine.exit_status}. {engine.last_words()}".strip()
    print_problem(Problem("engine_died", message, f"See {engine.log}."), as_json=as_json)
    raise typer.Exit(EXIT_JOB_FAILED)


def verify(run: TrainRun, *, as_json: bool) -> VerifyResult:
    """Reload the adapter in a new process and compare it with the trainer. Exits with 4 if they differ."""
    folder = run.output_dir / "verify"
    document = VerifyRun(
        base_model_dir=run.base_model_dir,
        adapter_dir=run.output_dir / "adapter",
        probe_file=run.output_dir / "probe.safetensors",
        output_dir=folder,
        device=run.device,
        threads=run.threads,
    )
    engine = EngineProcess("verify", document, folder)
    try:
        for event in engine.follow():
            if isinstance(event, Failure):
                print_problem(event.failed, as_json=as_json)
            elif isinstance(event, Log):
                print(f"{event.level}: {event.message}", file=sys.stderr)
    except KeyboardInterrupt:
        engine.stop()
        raise
    if engine.exit_status:
        raise typer.Exit(EXIT_JOB_FAILED)
    return VerifyResult.model_validate_json((folder / "result.json").read_bytes())


def summarise(output: Path, result: TrainResult, peak_rss_bytes: int, device: DeviceKind) -> dict[str, Any]:
    """Return what `--json` prints, with all steps of a resumed run. A repeated step counts once, the newer one."""
    events, _ = read_events(output)
    steps: dict[int, Step] = {}
    plan = None
    for event in events:
        if isinstance(event, Step):
            steps[event.step] = event
        elif isinstance(event, Plan):
            plan = event
    assert plan is not None
    timed = [step for number, step in sorted(steps.items()) if number > plan.first_step + SKIPPED_STEPS]
    seconds = sum(step.seconds for step in timed)
    return {
        "steps": result.steps,
        "tokens": result.trained_tokens,
        "supervised_tokens": result.supervised_tokens,
        "tokens_per_second": round(sum(step.tokens for step in timed) / seconds, 1) if timed else None,
        "peak_rss_bytes": peak_rss_bytes,
        "peak_gpu_bytes": max(step.peak_memory_bytes for step in steps.values()) if device == "cuda" else 0,
        "trainable_parameters": plan.trainable_parameters,
        "total_parameters": plan.total_parameters,
        "losses": [step.loss for _, step in sorted(steps.items())],
        "evaluation_loss": result.evaluation_loss,
        "adapter_dir": str(output / result.adapter_dir),
    }


def print_summary(summary: dict[str, Any], result: TrainResult, verified: VerifyResult) -> None:
    speed = summary["tokens_per_second"]
    parts = [f"{summary['steps']} steps", f"loss {result.final_loss:.4f}"]
    if result.evaluation_loss is not None:
        parts.append(f"held-out loss {result.evaluation_loss:.4f} (step {result.published_step})")
    if speed is not None:
        parts.append(f"{speed:.0f} tokens/s")
    parts.append(f"{size(summary['peak_gpu_bytes'] or summary['peak_rss_bytes'])} at most")
    print(", ".join(parts), file=sys.stderr)
    print(f"reloaded and compared: logits differ by at most {verified.max_difference:.1e}", file=sys.stderr)
    print(summary["adapter_dir"])
