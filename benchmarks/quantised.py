"""How much memory NF4 saves: our training on a random Llama with a billion parameters, in NF4 and bfloat16.

    python -m benchmarks.quantised --tokenizer FOLDER [--shape tinyllama] [--rounds 2] [--micro-batch-sizes 4 1]
                                   [--activation-checkpointing]

Both train the same few steps, alternating and in fresh processes, with a table per micro-batch size, as activations
are the same in both and quantisation saves only weights. Memory is what the process cannot release: anonymous pages,
and mapped pages of the model's file, because our bfloat16 base is used directly from disk, and every step needs it. The
peak of loading, which for NF4 includes 16-bit weights, is shown separately from the peak after it. Linux only, as it
reads /proc.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from benchmarks.engine import SKIPPED_STEPS, cpu_name
from benchmarks.rows import write_rows

STEPS = 6
POLL_SECONDS = 0.05
HEAD_DIM = 64
# Widths of popular models, with fewer layers.
SHAPES: dict[str, dict[str, Any]] = {
    "tinyllama": {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 16, "num_key_value_heads": 4},
    "llama-3.2-3b": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 12, "num_key_value_heads": 8},
}
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


@dataclass(frozen=True)
class Measured:
    """One run; peaks in bytes."""

    loading_bytes: int
    training_bytes: int
    tokens_per_second: float


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        parameters = make_model(folder / "model", options.tokenizer, SHAPES[options.shape])
        print(f"{cpu_name()}, {options.threads} threads, torch {torch.__version__}, {parameters / 1e9:.2f}B parameters")
        for size in options.micro_batch_sizes:
            compare(folder / f"{size}-rows", folder / "model", size, options)


def compare(folder: Path, model: Path, micro_batch_size: int, options: argparse.Namespace) -> None:
    """Train with both bases, alternating, and print the table."""
    folder.mkdir()
    rows = write_rows(folder / "rows.jsonl", STEPS * micro_batch_size, None)
    runs: dict[str, list[Measured]] = {"nf4": [], "bfloat16": []}
    for number in range(options.rounds):
        for base, measured in runs.items():
            measured.append(train(base, model, rows, folder / f"{base}-{number}", micro_batch_size, options))
            print(f"{base} round {number + 1}: {measured[-1]}", flush=True)
    print(f"\n| micro batch {micro_batch_size} | nf4 | bfloat16 | ratio |\n|---|---|---|---|")
    for field, label, scale in (
        ("training_bytes", "GB while training", 1e-9),
        ("loading_bytes", "GB while loading", 1e-9),
        ("tokens_per_second", "tokens/s", 1.0),
    ):
        ours, plain = ([getattr(run, field) * scale for run in runs[base]] for base in ("nf4", "bfloat16"))
        ratio = median(quantised / dense for quantised, dense in zip(ours, plain, strict=True))
        print(f"| {label} | {median(ours):.3g} | {median(plain):.3g} | {ratio:.2f}x |")
    print(flush=True)


def make_model(folder: Path, tokenizer: Path, shape: dict[str, Any]) -> int:
    """Create a random Llama of this shape with another model's tokenizer; return its number of parameters."""
    vocabulary = json.loads((tokenizer / "config.json").read_text())["vocab_size"]
    config = LlamaConfig(
        vocab_size=vocabulary,
        num_attention_heads=shape["hidden_size"] // HEAD_DIM,
        tie_word_embeddings=True,
        **shape,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).bfloat16()
    model.save_pretrained(folder)
    for name in TOKENIZER_FILES:
        shutil.copy(tokenizer / name, folder / name)
    return int(model.num_parameters())


def train(
    base: str, model: Path, rows: Path, output_dir: Path, micro_batch_size: int, options: argparse.Namespace
) -> Measured:
    """Run the engine and watch its memory until it ends."""
    run = {
        "spec": {
            "base_model": str(model),
            "dataset": {"path": str(rows)},
            "method": {"type": "qlora" if base == "nf4" else "lora", "rank": 16, "alpha": 32},
            "training": {"micro_batch_size": micro_batch_size, "max_seq_len": 512},
            "runtime": {"dtype": "bfloat16", "activation_checkpointing": options.activation_checkpointing},
        },
        "base_model_dir": str(model),
        "base_model_name": "random",
        "datasets": [{"path": str(rows), "sha256": hashlib.sha256(rows.read_bytes()).hexdigest()}],
        "output_dir": str(output_dir),
        "threads": options.threads,
    }
    document = output_dir.with_suffix(".json")
    document.write_text(json.dumps(run))
    events = output_dir / "events.jsonl"
    process = subprocess.Popen([sys.executable, "-m", "finetune_hub.engine", "train", str(document)])
    peaks = {"loading": 0, "training": 0}
    while process.poll() is None:
        # The plan event comes when the model is loaded and the adapter attached.
        phase = "training" if events.exists() and b'"type":"plan"' in events.read_bytes() else "loading"
        peaks[phase] = max(peaks[phase], held_bytes(process.pid, model))
        time.sleep(POLL_SECONDS)
    if process.returncode:
        raise SystemExit(f"the {base} run ended with {process.returncode}")
    steps = [event for event in map(json.loads, events.read_text().splitlines()) if event["type"] == "step"]
    seconds = sum(step["seconds"] for step in steps[SKIPPED_STEPS:])
    return Measured(
        peaks["loading"], peaks["training"], sum(step["tokens"] for step in steps[SKIPPED_STEPS:]) / seconds
    )


def held_bytes(pid: int, model: Path) -> int:
    """Return a process's anonymous pages and mapped pages of the model's files in bytes; 0 if it has just ended."""
    held_kib, path = 0, ""
    try:
        with open(f"/proc/{pid}/smaps") as smaps:
            for line in smaps:
                field, *values = line.split()
                if not field.endswith(":"):
                    path = values[4] if len(values) > 4 else ""
                elif field == "Anonymous:" or (field == "Rss:" and path.startswith(str(model))):
                    held_kib += int(values[0])
    except OSError:
        return 0
    return held_kib * 1024


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", type=Path, required=True, help="a base model's folder, for its tokenizer")
    parser.add_argument("--shape", choices=SHAPES, default="tinyllama")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--micro-batch-sizes", type=int, nargs="+", default=[4, 1])
    parser.add_argument("--activation-checkpointing", action="store_true", help="recompute activations")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    return parser.parse_args()


if __name__ == "__main__":
    main()
