"""The peer of `engine.py`: TRL's SFTTrainer with PEFT on the same rows, in its own environment (README.md).

Prints one JSON line: the end of each optimizer step (Unix seconds, and the process's CPU seconds), the run's tokens
without padding, the logged losses, and the versions. Padding is the peer's own cost.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, TrainerCallback
from trl import SFTConfig, SFTTrainer

PACKAGES = ("trl", "peft", "transformers", "torch", "accelerate")


class StepClock(TrainerCallback):
    """Records the end of each optimizer step."""

    def __init__(self) -> None:
        self.ended_at: list[float] = []
        self.cpu_seconds: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ended_at.append(time.time())
        self.cpu_seconds.append(time.process_time())


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    rows = [json.loads(line) for line in options.rows.read_text(encoding="utf-8").splitlines()]
    data = Dataset.from_list([{"prompt": row["messages"][:-1], "completion": row["messages"][-1:]} for row in rows])
    model = load(options)
    settings = SFTConfig(
        output_dir=tempfile.mkdtemp(),
        per_device_train_batch_size=options.micro_batch_size,
        num_train_epochs=1,
        max_length=options.max_seq_len,
        learning_rate=2e-4,
        lr_scheduler_type="constant",
        bf16=False,  # The model is already in bfloat16; autocast would only slow the peer down.
        gradient_checkpointing=False,  # On by default; off, so that both compute every layer once.
        completion_only_loss=True,
        packing=options.packing,
        use_cpu=options.device == "cpu",
        use_liger_kernel=options.liger,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        seed=7,
    )
    lora = LoraConfig(r=options.rank, lora_alpha=2 * options.rank, target_modules="all-linear", task_type="CAUSAL_LM")
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    trainer = SFTTrainer(model=model, args=settings, train_dataset=data, processing_class=tokenizer, peft_config=lora)
    packages = (*PACKAGES, "liger_kernel") if options.liger else PACKAGES
    clock = StepClock()
    trainer.add_callback(clock)
    trainer.train()
    print(
        json.dumps(
            {
                "step_ended_at": clock.ended_at,
                "step_cpu_seconds": clock.cpu_seconds,
                "tokens": sum(len(ids) for ids in trainer.train_dataset["input_ids"]),
                "losses": [entry["loss"] for entry in trainer.state.log_history if "loss" in entry],
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if options.device == "cuda" else 0,
                "versions": {name: importlib.metadata.version(name) for name in packages},
            }
        )
    )


def load(options: argparse.Namespace) -> Any:
    if options.base != "nf4":
        return AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.base))
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        options.model, dtype=torch.bfloat16, quantization_config=quantization, device_map={"": options.device}
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=Path, required=True, help="chat rows in JSONL")
    parser.add_argument("--base", default="bfloat16", help="float32, bfloat16, or nf4 with products in bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--packing", action="store_true")
    parser.add_argument("--liger", action="store_true", help="use Liger-Kernel's Triton kernels; only on a GPU")
    return parser.parse_args()


if __name__ == "__main__":
    main()
