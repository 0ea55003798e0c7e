"""`finetune-hub export`: convert an adapter for other programs, alone or merged into its base model. Needs no hub.

The engine runs as its own process. It writes to a hidden folder next to the target, reloads the files and compares
their logits with the adapter's. The folder is renamed to the target only if the comparison passes.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

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
from finetune_hub.cli.train import BAD_INPUT_CLASSES, found_device
from finetune_hub.spec.events import Failure, Log, Progress
from finetune_hub.spec.problem import Failed, Problem
from finetune_hub.spec.run import ExportFormat, ExportResult, ExportRun, NumberFormat, QuantizationKind

STAGES = ("loading the base model and the adapter", "writing", "reloading and comparing")


@reports_errors
def export(
    adapter: Annotated[Path, typer.Argument(help="Folder of an adapter in PEFT's format.")],
    base: Annotated[
        str, typer.Option(help="The base model it was trained on: a folder, or any name that a recipe may use.")
    ],
    form: Annotated[
        ExportFormat,
        typer.Option(
            "--format",
            help="peft; portable: one rank and scale, for vLLM and LoRAX; merged: a full model in safetensors; "
            "gguf-adapter and gguf-merged: for llama.cpp.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Folder for the files. It must not exist yet.")],
    dtype: Annotated[
        NumberFormat,
        typer.Option(
            help="Data type of the weights; auto: that of the base model, f32 for an adapter. q8_0 is for GGUF.",
        ),
    ] = "auto",
    quantization: Annotated[
        QuantizationKind | None,
        typer.Option(
            help="How QLoRA quantized the base model. The merge uses the weights that give the closer result.",
        ),
    ] = None,
    double_quantization: Annotated[
        bool,
        typer.Option("--double-quantization/--no-double-quantization", help="Whether the scales were quantized too."),
    ] = True,
    device: Annotated[str, typer.Option(help="cpu or cuda. Default: cuda if there is an NVIDIA GPU.")] = "",
    threads: Annotated[int | None, typer.Option(help="CPU threads. Default: all cores.", min=1)] = None,
    as_json: Json = False,
) -> None:
    """Convert an adapter for other programs, or merge it into its base model. Prints the output folder."""
    output = output.absolute()
    check_paths(adapter, output)
    base_model = find_base_model(base, relative_to=Path.cwd())
    output.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output.name}.", dir=output.parent))
    run = ExportRun(
        base_model_dir=base_model,
        adapter_dir=adapter.absolute(),
        format=form,
        number_format=dtype,
        quantization=quantization,
        double_quantization=double_quantization,
        output_dir=work,
        device="cuda" if (device or found_device()) == "cuda" else "cpu",
        threads=threads,
    )
    try:
        follow(EngineProcess("export", run, work), as_json=as_json)
        result = ExportResult.model_validate_json((work / "result.json").read_bytes())
        (work / result.export_dir).rename(output)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    report(result, output, as_json=as_json)


def check_paths(adapter: Path, output: Path) -> None:
    """Check the paths right away, before the engine starts.

    Raises:
        HubError: `no_such_folder` or `target_exists`.
    """
    if not (adapter / "adapter_config.json").is_file():
        raise HubError(
            "no_such_folder",
            f"There is no adapter_config.json in {adapter}.",
            "Use the folder of an adapter in PEFT's format, such as `out/adapter`.",
        )
    if output.exists():
        raise HubError("target_exists", f"{output} exists already.", "Choose another folder or remove this one.")


def follow(engine: EngineProcess, *, as_json: bool) -> None:
    """Show the export's progress on stderr. Exits the program if it fails."""
    print(f"{STAGES[0]} …", file=sys.stderr, flush=True)
    failed: Failed | None = None
    try:
        for event in engine.follow():
            match event:
                case Progress(done=done) if done < len(STAGES):
                    print(f"{STAGES[done]} …", file=sys.stderr, flush=True)
                case Log():
                    print({"warn": "warning: "}.get(event.level, "") + event.message, file=sys.stderr, flush=True)
                case Failure():
                    failed = event.failed
    except KeyboardInterrupt:
        engine.stop()
        for _ in engine.follow():
            pass
        print("Stopped; nothing was written.", file=sys.stderr)
        raise typer.Exit(EXIT_JOB_CANCELLED) from None
    if failed is not None:
        print_problem(failed, as_json=as_json)
        raise typer.Exit(EXIT_BAD_INPUT if failed.code in BAD_INPUT_CLASSES else EXIT_JOB_FAILED)
    if engine.exit_status:
        message = f"The engine ended with status {engine.exit_status}. {engine.last_words()}".strip()
        print_problem(Problem("engine_died", message, "Check this machine's memory and disk space."), as_json=as_json)
        raise typer.Exit(EXIT_JOB_FAILED)


def report(result: ExportResult, output: Path, *, as_json: bool) -> None:
    """Print the folder, or one line of JSON, on stdout."""
    if as_json:
        summary: dict[str, Any] = result.model_dump(mode="json", exclude={"export_dir"})
        print(json.dumps({"output_dir": str(output), **summary}))
        return
    if result.merge_distances is not None:
        ways = ", ".join(f"{base} {distance:.2e}" for base, distance in result.merge_distances.items())
        print(f"merged onto the {result.merged_onto} weights; distances {ways}", file=sys.stderr)
    whose = "adapter" if result.merge_distances is None else "merged model"
    total = size(sum(entry.size_bytes for entry in result.files))
    print(
        f"{len(result.files)} files, {total} in {result.number_format}; reloaded and compared: the logits are "
        f"{result.distance:.1e} away from the {whose}'s; the adapter itself changes them by {result.moved:.1e}",
        file=sys.stderr,
    )
    print(output)
