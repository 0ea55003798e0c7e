"""What each method learns from the same rows: ours with their defaults, and PEFT's prompt and prefix tuning.

    python -m benchmarks.methods --model FOLDER [--rows gsm8k_train.jsonl] [--threads 2]

Two tasks, one pass over their rows: the demo's tickets (held-out loss and exact matches) and GSM8K (held-out loss).
PEFT's methods use PEFT's own new adapter, saved by PEFT and loaded here, so that its shape and initial values are
PEFT's; the loop is ours on both sides, with the same rows in the same order.

PEFT's defaults are those of its configuration, with the learning rate of PEFT's own method comparison (1e-4). Three
manual settings follow for each method; the last column of the table marks the best of them.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

from benchmarks.rows import write_rows
from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.sample_tickets import write_tickets
from finetune_hub.engine import library
from finetune_hub.engine.adapters.adapter import Adapter, parameter_groups
from finetune_hub.engine.allocator import start_again_tuned
from finetune_hub.engine.dataset import RowOrder, TokenRow, load_dataset
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.model import prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.engine.process_memory import bound_kernel_caches
from finetune_hub.engine.train import held_out
from finetune_hub.engine.train.ranks import Ranks
from finetune_hub.engine.train.step import schedule
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.methods.low_rank import LoraMethod, QloraMethod
from finetune_hub.spec.methods.method import Method
from finetune_hub.spec.methods.virtual_tokens import PrefixTuningMethod, PromptTuningMethod
from finetune_hub.spec.run import DatasetFile
from finetune_hub.spec.training import TrainingOptions

MICRO_BATCH = 4
MAX_SEQ_LEN = 512
ANSWER_TOKENS = 48
SEED = 7
PEFT_LEARNING_RATE = 1e-4  # method_comparison/MetaMathQA/default_training_params.json in PEFT's repository
VIRTUAL_TOKENS = PromptTuningMethod().virtual_tokens
TASK_TEXT = "Answer the user's message."


@dataclass(frozen=True)
class Candidate:
    """One row of the table."""

    name: str
    attach: Callable[[Any, Path], Adapter]  # Takes the model and its folder.
    learning_rate: float
    quantization: Any = None


@dataclass(frozen=True)
class Task:
    """Training rows and held-out rows."""

    name: str
    train: Path
    held_out: Path
    answers: int  # Held-out rows to answer.


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    bound_kernel_caches()
    with tempfile.TemporaryDirectory() as name:
        tasks = make_tasks(Path(name), options)
        candidates = [candidate for candidate in all_candidates() if options.only in candidate.name]
        table: dict[str, dict[str, str]] = {}
        for task in tasks:
            for candidate in candidates:
                started = time.perf_counter()
                parameters, cells = measure(task, candidate, options.model, Path(name))
                table.setdefault(candidate.name, {"trained": f"{parameters:,}"}).update(cells)
                seconds = time.perf_counter() - started
                print(
                    json.dumps({"task": task.name, "method": candidate.name, **cells, "seconds": round(seconds)}),
                    flush=True,
                )
    columns = list(dict.fromkeys(column for cells in table.values() for column in cells))
    print("\n| method | " + " | ".join(columns) + " |\n|" + "---|" * (1 + len(columns)))
    for method, cells in table.items():
        print(f"| {method} | " + " | ".join(cells.get(column, "") for column in columns) + " |")


def all_candidates() -> list[Candidate]:
    return [
        ours("ours: lora", LoraMethod()),
        ours("ours: qlora", QloraMethod()),
        ours("ours: prompt tuning", PromptTuningMethod()),
        ours("ours: prefix tuning", PrefixTuningMethod()),
        peft("PEFT: prompt tuning, defaults", PromptTuningConfig, PEFT_LEARNING_RATE),
        peft("PEFT: prompt tuning, random, 1e-2", PromptTuningConfig, 1e-2),
        peft("PEFT: prompt tuning, vocabulary, 1e-3", PromptTuningConfig, 1e-3, prompt_tuning_init="SAMPLE_VOCAB"),
        peft("PEFT: prompt tuning, text, 1e-2", PromptTuningConfig, 1e-2, prompt_tuning_init="TEXT"),
        peft("PEFT: prefix tuning, defaults", PrefixTuningConfig, PEFT_LEARNING_RATE),
        peft("PEFT: prefix tuning, random, 1e-2", PrefixTuningConfig, 1e-2),
        peft("PEFT: prefix tuning, zero, 1e-3", PrefixTuningConfig, 1e-3, init_weights="zero"),
        peft("PEFT: prefix tuning, zero, 1e-2", PrefixTuningConfig, 1e-2, init_weights="zero"),
    ]


def ours(name: str, method: Method) -> Candidate:
    return Candidate(
        name,
        lambda model, folder: library.apply(model, method, seed=SEED),
        method.default_learning_rate,
        getattr(method, "quantization", None),
    )


def peft(name: str, config: Callable[..., PeftConfig], learning_rate: float, **settings: Any) -> Candidate:
    return Candidate(name, partial(fresh_from_peft, config=config, settings=settings), learning_rate)


def fresh_from_peft(model: Any, folder: Path, config: Callable[..., PeftConfig], settings: dict[str, Any]) -> Adapter:
    """Return PEFT's own adapter before its first step, on our model."""
    if settings.get("prompt_tuning_init") == "TEXT":
        settings = settings | {"prompt_tuning_init_text": TASK_TEXT, "tokenizer_name_or_path": str(folder)}
    torch.manual_seed(SEED)
    base = AutoModelForCausalLM.from_pretrained(folder)
    with tempfile.TemporaryDirectory() as saved:
        peft_model = get_peft_model(base, config(task_type="CAUSAL_LM", num_virtual_tokens=VIRTUAL_TOKENS, **settings))
        peft_model.save_pretrained(saved)
        return library.attach(model, saved)


def measure(task: Task, candidate: Candidate, folder: Path, scratch: Path) -> tuple[int, dict[str, str]]:
    """Train on the task's rows and evaluate on its held-out ones."""
    log = EventLog(scratch / "events.jsonl")
    template = ChatTemplate.from_folder(folder)
    files = [DatasetFile(path=path, sha256=sha256_of(path)) for path in (task.train, task.held_out)]
    train_rows, held_out_rows = (load_dataset(file, template, MAX_SEQ_LEN, log, Sft.encode) for file in files)
    model = library.load(folder, dtype=torch.bfloat16, quantization=candidate.quantization)
    adapter = candidate.attach(model, folder)
    trained = list(adapter.parameters().values())
    for parameter in trained:
        parameter.requires_grad_()
    train(model, adapter, candidate.learning_rate, RowOrder([train_rows], SEED))

    objective = Sft(Setting(model, prove_fast_paths(model)))
    loss = held_out.measure(objective, held_out_rows.rows, 8, Ranks.join("cpu"))
    cells = {f"{task.name}: held-out loss": f"{loss:.3f}"}
    if task.answers:
        cells[f"{task.name}: exact"] = f"{exact(model, held_out_rows.rows[: task.answers], template):.0%}"
    return sum(parameter.numel() for parameter in trained), cells


def train(model: Any, adapter: Adapter, learning_rate: float, order: RowOrder) -> None:
    """Run one epoch over the rows, with the spec's default schedule and clipping."""
    options = TrainingOptions()
    paths = prove_fast_paths(model)
    fast_modules.install(model)
    optimizer = torch.optim.AdamW(parameter_groups(adapter, learning_rate), weight_decay=0.0)
    trained = list(adapter.parameters().values())
    steps = order.rows_per_epoch // MICRO_BATCH
    model.train()
    for step in range(steps):
        rows = order.rows(step * MICRO_BATCH, (step + 1) * MICRO_BATCH)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate * schedule(step + 1, steps, options) * group["factor"]
        optimizer.zero_grad()
        backward(Sft(Setting(model, paths)), rows, sum(len(row.targets) for row in rows))[0]
        torch.nn.utils.clip_grad_norm_(trained, options.max_grad_norm)
        optimizer.step()


def exact(model: Any, rows: list[TokenRow], template: ChatTemplate) -> float:
    """Return the share of rows with exactly matching answers."""
    answers = held_out.answer(model, rows, template, ANSWER_TOKENS)
    return sum(sample.answer == sample.expected for sample in answers) / len(answers)


def make_tasks(folder: Path, options: argparse.Namespace) -> list[Task]:
    train, held_out_tickets = folder / "tickets.jsonl", folder / "held-out-tickets.jsonl"
    write_tickets(train, "train", options.tickets)
    write_tickets(held_out_tickets, "held_out", options.asked)
    tasks = [Task("tickets", train, held_out_tickets, answers=options.asked)]
    rows = write_rows(folder / "gsm8k.jsonl", options.problems + options.asked, options.rows)
    lines = rows.read_text().splitlines(keepends=True)
    train, held_out_problems = folder / "gsm8k-train.jsonl", folder / "gsm8k-held-out.jsonl"
    train.write_text("".join(lines[: options.problems]))
    held_out_problems.write_text("".join(lines[options.problems :]))
    return [*tasks, Task("GSM8K" if options.rows else "word problems", train, held_out_problems, answers=0)]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder of the base model")
    parser.add_argument("--rows", type=Path, help="GSM8K's train.jsonl; generated by default")
    parser.add_argument("--tickets", type=int, default=600, help="rows of the demo's task")
    parser.add_argument("--problems", type=int, default=200, help="rows of GSM8K")
    parser.add_argument("--asked", type=int, default=40, help="held-out rows of each task")
    parser.add_argument("--only", default="", help="only methods whose name contains this")
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_args()


if __name__ == "__main__":
    start_again_tuned()
    main()
