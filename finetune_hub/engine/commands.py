"""`python -m finetune_hub.engine COMMAND FILE`: run one command from its JSON file and report the outcome.

Exit status 0: `result.json` was written. 10: the last event is `failure`. 20: it is `stopped` (SIGTERM). 30: no event
could be written; stderr says why.
torch is imported only when a command starts, so `--help` and invalid files are handled immediately.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from finetune_hub import plugins
from finetune_hub.engine.errors import EngineError, Infrastructure, OutOfMemory, StopRequested
from finetune_hub.machine.durable_files import write_durably
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec import events, run
from finetune_hub.spec.problem import Explained

RANK_END_SECONDS = 30.0


def main(arguments: list[str] | None = None) -> int:
    """Parse the arguments, run the command, and return the exit status."""
    options = _parser().parse_args(arguments)
    command = COMMANDS[options.command]
    try:
        document = command.document.model_validate_json(options.file.read_bytes())
    except (OSError, ValidationError) as broken:
        print(f"{options.file} is not a {command.document.__name__} document: {broken}", file=sys.stderr)
        return events.EXIT_FAILED
    _silence_libraries()
    if options.wait:
        importlib.import_module(command.module)
        if not sys.stdin.readline():
            return events.EXIT_STOPPED  # The parent process is gone.
    if (
        rank := os.environ.get("RANK", "0")
    ) != "0":  # Rank 0 reports for the run; the others write to their own folders.
        document = document.model_copy(update={"output_dir": document.output_dir / f"rank-{rank}"})
    try:
        with EventLog(document.output_dir) as log:
            return _run(command, document, log)
    except OSError as unwritten:
        print(f"No event could be written to {document.output_dir}: {unwritten}", file=sys.stderr)
        return events.EXIT_UNSAID


def _run(command: EngineCommand, document: Any, log: EventLog) -> int:
    try:
        plugins.load("engine")
        result = command.start(document, log)
        write_durably(document.output_dir / "result.json", result.model_dump_json(indent=2).encode() + b"\n")
    except StopRequested as stopped:
        log.emit(events.Stopped(step=stopped.step))
        return events.EXIT_STOPPED
    except Exception as error:  # noqa: BLE001 - the process ends here, and its last event must say why
        explained = _explain(error)
        log.emit(events.Failure.of(explained.failed))
        if type(explained) is EngineError:
            traceback.print_exc()
        return events.EXIT_FAILED
    return events.EXIT_SUCCEEDED


def _explain(error: Exception) -> Explained:
    """Convert an exception to an error for the user."""
    if isinstance(error, Explained):
        return error
    if _is_out_of_memory(error):
        return OutOfMemory(
            f"The run does not fit in memory ({str(error).strip().splitlines()[0]}).",
            "Halve `micro_batch_size` and double `gradient_accumulation_steps`, or lower `max_seq_len`.",
        )
    if isinstance(error, OSError):
        return Infrastructure(f"A file could not be read or written ({error}).", "Check the worker's disk.")
    return EngineError(f"{type(error).__name__}: {error}", "This is a bug in the engine; the log has the traceback.")


def _is_out_of_memory(error: Exception) -> bool:
    """Recognise CUDA's own exception, and the CPU allocator's RuntimeError by its message."""
    kinds = {kind.__name__ for kind in type(error).__mro__}
    return bool(kinds & {"OutOfMemoryError", "MemoryError"}) or (
        isinstance(error, RuntimeError) and "not enough memory" in str(error)
    )


def _silence_libraries() -> None:
    """Turn off network access, progress bars and advice, so that the log shows only our own problems."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "TRANSFORMERS_VERBOSITY": "error",
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
        "TQDM_DISABLE": "1",
    }
    for name in ("transformers", "bitsandbytes"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.simplefilter("ignore")


def _stop_at_once(*_: object) -> None:
    raise StopRequested


def _use_threads(threads: int | None) -> None:
    import torch

    if threads is not None:
        torch.set_num_threads(threads)


def _train(document: run.TrainRun, log: EventLog) -> BaseModel:
    _use_threads(document.threads)
    from finetune_hub.engine.train.loop import train
    from finetune_hub.engine.train.ranks import start_others

    others = start_others(document.spec.runtime.gpus)
    try:
        return train(document, log)
    finally:
        for other in others:  # They end when this rank ends; one that hangs would keep its GPU.
            try:
                other.wait(RANK_END_SECONDS)
            except subprocess.TimeoutExpired:
                other.kill()


def _verify(document: run.VerifyRun, log: EventLog) -> BaseModel:
    signal.signal(signal.SIGTERM, _stop_at_once)
    _use_threads(document.threads)
    from finetune_hub.engine.verify import verify

    return verify(document, log)


def _evaluate(document: run.EvaluateRun, log: EventLog) -> BaseModel:
    signal.signal(signal.SIGTERM, _stop_at_once)
    _use_threads(document.threads)
    from finetune_hub.engine.evaluate import evaluate

    return evaluate(document, log)


def _import(document: run.ImportRun, log: EventLog) -> BaseModel:
    signal.signal(signal.SIGTERM, _stop_at_once)
    from finetune_hub.engine.import_model import import_model

    return import_model(document, log)


def _export(document: run.ExportRun, log: EventLog) -> BaseModel:
    signal.signal(signal.SIGTERM, _stop_at_once)
    _use_threads(document.threads)
    from finetune_hub.engine.exports.export import export

    return export(document, log)


@dataclass(frozen=True)
class EngineCommand:
    """A command: its document, its function, and the module that is slow to import."""

    help: str
    document: type[run.TrainRun | run.VerifyRun | run.EvaluateRun | run.ImportRun | run.ExportRun]
    start: Callable[[Any, EventLog], BaseModel]
    module: str


COMMANDS = {
    "train": EngineCommand("train one adapter", run.TrainRun, _train, "finetune_hub.engine.train.loop"),
    "verify": EngineCommand(
        "reload an adapter and compare its logits with the trainer's",
        run.VerifyRun,
        _verify,
        "finetune_hub.engine.verify",
    ),
    "evaluate": EngineCommand(
        "answer held-out rows with and without an adapter", run.EvaluateRun, _evaluate, "finetune_hub.engine.evaluate"
    ),
    "import": EngineCommand(
        "convert a GGUF file or a folder of safetensors to a base model",
        run.ImportRun,
        _import,
        "finetune_hub.engine.import_model",
    ),
    "export": EngineCommand(
        "write an adapter or a merged model for other programs",
        run.ExportRun,
        _export,
        "finetune_hub.engine.exports.export",
    ),
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m finetune_hub.engine", description="The training engine.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = commands.add_parser(name, help=command.help)
        subparser.add_argument("file", type=Path, help=f"a {command.document.__name__} document in JSON")
        subparser.add_argument("--wait", action="store_true", help="load the libraries, then wait for a line on stdin")
    return parser
