"""Check the planner's memory estimate: predicted and measured peaks of small runs, each in a fresh process.

    python -m benchmarks.planner [--set judged] [--keep FOLDER] [--json FILE]

Prints a line per run, then the median error, and how many runs were predicted more than 5% too low.
    measured   largest resident memory of the whole process `python -m finetune_hub.engine train`
    predicted  `scheduling.memory`, from the spec, the model's facts and the rows' lengths, before the run

The base models are random, with shapes of Llama and Qwen 2, as memory does not depend on the weights' values.
`scheduling.memory` has a few fitted constants from `--set calibration`, whose shapes and settings differ from the
judged ones. Other processes do not affect these measurements, unlike speed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import os
import platform
import random
import sys
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.engine import cpu_name, run_process
from finetune_hub.scheduling.devices import device_of
from finetune_hub.scheduling.facts import read_facts
from finetune_hub.scheduling.memory import estimate_memory
from finetune_hub.scheduling.workload import Rows, workload_of
from finetune_hub.spec.shape import Shape
from finetune_hub.spec.training import TrainingSpec
from tests.tiny_models import make_tokenizer

STEPS, RAGGED_STEPS = 3, 12  # If every micro-batch has a different length, heap fragmentation grows for a while.
UNDER = 0.05
TEMPLATE_TOKENS = 55  # Template overhead of a conversation, in bytes, which are about one token each.

LORA: dict[str, Any] = {"type": "lora", "rank": 16}
QLORA: dict[str, Any] = {"type": "qlora", "rank": 16}
BASES: dict[str, dict[str, Any]] = {
    # Calibration
    "llama-31m": {"hidden": 512, "inner": 1376, "layers": 8, "heads": 8, "kv": 2, "vocab": 16384},
    "llama-123m": {"hidden": 1024, "inner": 2816, "layers": 8, "heads": 16, "kv": 4, "vocab": 32000},
    # Judged
    "llama-107m": {"hidden": 768, "inner": 2048, "layers": 12, "heads": 12, "kv": 4, "vocab": 32000},
    "qwen2-166m": {"kind": "qwen2", "hidden": 896, "inner": 3584, "layers": 10, "heads": 14, "kv": 2, "vocab": 51200},
    "llama-258m": {"hidden": 1280, "inner": 3456, "layers": 10, "heads": 20, "kv": 5, "vocab": 24000, "tied": False},
}


@dataclass(frozen=True)
class Case:
    """One run: its base model and settings."""

    base: str
    length: int = 256
    batch: int = 4
    dtype: str = "bfloat16"
    method: dict[str, Any] = field(default_factory=lambda: LORA)
    checkpointing: bool = False
    ragged: bool = False
    training: dict[str, Any] = field(default_factory=dict)

    def spec(self, folder: Path, rows: Path) -> dict[str, Any]:
        training = {"micro_batch_size": self.batch, "max_seq_len": self.length, "max_steps": STEPS}
        return {
            "base_model": str(folder),
            "dataset": {"path": str(rows)},
            "method": self.method,
            "training": training | self.training,
            "runtime": {"dtype": self.dtype, "activation_checkpointing": self.checkpointing},
        }

    def label(self) -> str:
        method = {key: value for key, value in self.method.items() if key != "type"}
        words = [self.method["type"], *(f"{key}={value}" for key, value in method.items())]
        words += [f"{key}={value}" for key, value in self.training.items()]
        return " ".join(words + ["checkpointing"] * self.checkpointing + ["ragged"] * self.ragged)


CALIBRATION = [
    Case("llama-31m"),
    Case("llama-31m", 512),
    Case("llama-31m", 512, 2, "float32"),
    Case("llama-31m", 400, 4, "float32", ragged=True),
    Case("llama-31m", 400, 8, ragged=True),
    Case("llama-31m", 512, 4, "float32", checkpointing=True),
    Case("llama-123m"),
    Case("llama-123m", dtype="float32"),
    Case("llama-123m", 192, 2, "float32"),
    Case("llama-123m", 320, 4, checkpointing=True),
    Case("llama-123m", method=QLORA),
    Case("llama-123m", dtype="float32", method=QLORA),
    Case("llama-123m", method=QLORA | {"quantization": "int8"}),
    Case("llama-123m", method=LORA | {"use_dora": True}),
    Case("llama-123m", method={"type": "prefix_tuning"}),
    Case("llama-123m", method={"type": "prompt_tuning"}),
]
JUDGED = [
    Case("llama-107m"),
    Case("llama-107m", 384, 4),
    Case("llama-107m", 128, 2),
    Case("llama-107m", 256, 8, ragged=True),
    Case("llama-107m", dtype="float32"),
    Case("llama-107m", 512, 2, "float32", ragged=True),
    Case("llama-107m", 512, 4, checkpointing=True),
    Case("llama-107m", 512, 4, "float32", checkpointing=True),
    Case("llama-107m", method=LORA | {"rank": 128}),
    Case("llama-107m", method=LORA | {"target_modules": ["q_proj", "v_proj"]}),
    Case("llama-107m", method=LORA | {"dropout": 0.1}),
    Case("llama-107m", method=LORA | {"use_dora": True}),
    Case("llama-107m", method=QLORA),
    Case("llama-107m", 192, 2, "float32", QLORA),
    Case("llama-107m", method={"type": "prefix_tuning", "virtual_tokens": 16}),
    Case("llama-107m", method={"type": "prompt_tuning", "virtual_tokens": 64}, dtype="float32"),
    Case("qwen2-166m", 192, 4),
    Case("qwen2-166m", 192, 4, "float32"),
    Case("qwen2-166m", 320, 4, checkpointing=True, ragged=True),
    Case("qwen2-166m", 256, 2, method=QLORA | {"rank": 64}),
    Case("qwen2-166m", 256, 2, method=QLORA | {"quantization": "int8"}),
    Case("qwen2-166m", 256, 4, training={"gradient_accumulation_steps": 2}, ragged=True),
    Case("llama-258m", 256, 2),
    Case("llama-258m", 128, 2, "float32"),
    Case("llama-258m", 256, 4, "float32", checkpointing=True),
    Case("llama-258m", 256, 2, method=QLORA, checkpointing=True),
    Case("llama-258m", 256, 2, method={"type": "prompt_tuning"}),
    # Added after the first ones showed where the estimate was too low.
    Case("qwen2-166m", 320, 3, "float32", checkpointing=True),
    Case("llama-258m", 448, 2, "float32", checkpointing=True),
    Case("qwen2-166m", 160, 2, "float32", QLORA),
    Case("llama-258m", 192, 3, "float32", QLORA | {"rank": 8}),
    Case("llama-107m", 320, 2, "float32", QLORA | {"rank": 32}),
    Case("llama-107m", 224, 3, "float32", QLORA | {"quantization": "int8"}),
]
SETS = {"calibration": CALIBRATION, "judged": JUDGED}


@dataclass(frozen=True)
class Outcome:
    """One run, predicted and measured."""

    case: Case
    predicted: dict[str, float]
    predicted_bytes: float
    measured_bytes: float

    @property
    def error(self) -> float:
        """The prediction's relative error; negative if it was too low."""
        return self.predicted_bytes / self.measured_bytes - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--set", choices=SETS, default="judged")
    parser.add_argument("--keep", type=Path, help="Create the base models here and reuse them next time.")
    parser.add_argument("--json", type=Path, help="Write every part of every estimate to this file.")
    options = parser.parse_args()
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    print(f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores, Python {platform.python_version()}, {versions}")
    print(
        "\n| base | tokens × rows | dtype | run | predicted GB | measured GB | error |\n|---|---|---|---|---|---|---|"
    )
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        for case in SETS[options.set]:
            outcomes.append(run_case(case, options.keep or Path(name), Path(name)))
            show(outcomes[-1])
    report([outcome.error for outcome in outcomes])
    if options.json:
        options.json.write_text(json.dumps([asdict(outcome) for outcome in outcomes], indent=1))


def report(errors: list[float]) -> None:
    under = sum(error < -UNDER for error in errors)
    middle, signed = 100 * median(map(abs, errors)), 100 * median(errors)
    print(f"\n{len(errors)} runs: median error {middle:.1f}%, signed {signed:+.1f}%;")
    spread = f"from {100 * min(errors):+.1f}% to {100 * max(errors):+.1f}%"
    print(f"{spread}; {under} were predicted more than {100 * UNDER:.0f}% too low.")


def run_case(case: Case, bases: Path, folder: Path) -> Outcome:
    """Predict and measure."""
    base = make_base(bases / case.base, **BASES[case.base])
    run_dir = Path(tempfile.mkdtemp(dir=folder))
    per_step = case.batch * case.training.get("gradient_accumulation_steps", 1)
    steps = RAGGED_STEPS if case.ragged else STEPS
    rows, lengths = write_rows(run_dir / "rows.jsonl", steps * per_step, case.length, is_ragged=case.ragged)
    spec = case.spec(base, rows)
    run = {
        "spec": spec,
        "base_model_dir": str(base),
        "base_model_name": case.base,
        "datasets": [{"path": str(rows), "sha256": hashlib.sha256(rows.read_bytes()).hexdigest()}],
        "output_dir": str(run_dir / "out"),
        "device": "cpu",
    }
    document = run_dir / "run.json"
    document.write_text(json.dumps(run))
    _, measured = run_process([sys.executable, "-m", "finetune_hub.engine", "train", str(document)])
    parsed = TrainingSpec.model_validate(spec)
    device = device_of("cpu", f"{cpu_name()}, {os.cpu_count()} cores", 0)
    load = workload_of(parsed, Rows(len(lengths), lengths))
    estimate = estimate_memory(parsed, Shape(read_facts(base)), device, load)
    return Outcome(case, estimate.parts(), estimate.peak_bytes, measured)


def make_base(
    folder: Path, *, hidden: int, inner: int, layers: int, heads: int, kv: int, vocab: int,
    kind: str = "llama", tied: bool = True,
) -> Path:  # fmt: skip
    """Create a random bfloat16 model if it does not exist yet."""
    if (folder / "model.safetensors").is_file():
        return folder
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    make_tokenizer(folder)
    config = AutoConfig.for_model(
        kind,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv,
        vocab_size=vocab,
        tie_word_embeddings=tied,
        max_position_embeddings=4096,
        bos_token_id=261,
        eos_token_id=263,
        pad_token_id=261,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)  # type: ignore[no-untyped-call]
    return folder


def write_rows(path: Path, count: int, length: int, *, is_ragged: bool) -> tuple[Path, list[int]]:
    """Write random conversations of this many tokens each, or if ragged from a quarter of it up; return the lengths."""
    draw = random.Random(length)
    lengths = []
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            tokens = draw.randint(length // 4, length) if is_ragged else length
            half = max(2, (tokens - TEMPLATE_TOKENS) // 2)
            texts = ["".join(draw.choices("bjkqvwxz", k=half)) for _ in range(2)]
            messages = [
                {"role": role, "content": text} for role, text in zip(("user", "assistant"), texts, strict=True)
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
            lengths.append(min(length, 2 * half + TEMPLATE_TOKENS))
    return path, lengths


def show(outcome: Outcome) -> None:
    case = outcome.case
    sizes = f"{outcome.predicted_bytes / 1e9:.2f} | {outcome.measured_bytes / 1e9:.2f} | {100 * outcome.error:+.1f}%"
    print(f"| {case.base} | {case.length} × {case.batch} | {case.dtype} | {case.label()} | {sizes} |", flush=True)


if __name__ == "__main__":
    main()
