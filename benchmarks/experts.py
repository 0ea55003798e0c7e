"""LoRA on a mixture's experts: our kernels against PEFT's `target_parameters`, on a random qwen3_moe model.

    python -m benchmarks.experts [--rounds 2] [--dtype float32] [--experts 32] [--rows 4] [--tokens 256]

Each side trains the same few steps on the same random rows in a fresh process, alternating, without a trainer: only
model, adapter, loss, backward and AdamW. The first two steps are excluded from the speed but included in the memory,
which is the process's peak including the model.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, Qwen3MoeConfig, Qwen3MoeForCausalLM

from benchmarks.engine import SKIPPED_STEPS, cpu_name
from finetune_hub.engine.adapters.lora import LoraAdapter
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.model import DTYPES, load_base_model
from finetune_hub.engine.process_memory import peak_memory_bytes
from finetune_hub.spec.methods.low_rank import LoraMethod

STEPS = 8
RANK, ALPHA = 16, 32
STACKS = ["experts.gate_up_proj", "experts.down_proj"]
ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]
VOCABULARY = 8192


def main() -> None:
    options = parse()
    if options.side:
        print(json.dumps(train(options)))
        return
    with tempfile.TemporaryDirectory() as name:
        make_model(Path(name), options)
        runs: dict[str, list[dict[str, float]]] = {"ours": [], "peer": []}
        for _ in range(options.rounds):
            for side, measured in runs.items():
                measured.append(in_a_process(side, name))
                print(f"{side}: {measured[-1]}", flush=True)
    import peft

    print(f"\n{cpu_name()}, {options.threads} threads, torch {torch.__version__}, peft {peft.__version__}")
    print(f"\n| {options.dtype}, {options.experts} experts | ours | peer | ratio |\n|---|---|---|---|")
    for field, label, scale in (("tokens_per_second", "tokens/s", 1.0), ("bytes", "GB at most", 1e-9)):
        ours, peer = ([run[field] * scale for run in runs[side]] for side in ("ours", "peer"))
        ratio = median(one / other for one, other in zip(ours, peer, strict=True))
        print(f"| {label} | {median(ours):.3g} | {median(peer):.3g} | {ratio:.2f}x |")
    print(f"| last loss | {runs['ours'][-1]['loss']:.4f} | {runs['peer'][-1]['loss']:.4f} | |")


def in_a_process(side: str, folder: str) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.experts", *sys.argv[1:], "--side", side, "--model", folder]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    measured: dict[str, float] = json.loads(printed.splitlines()[-1])
    return measured


def make_model(folder: Path, options: argparse.Namespace) -> None:
    config = Qwen3MoeConfig(
        vocab_size=VOCABULARY,
        hidden_size=768,
        moe_intermediate_size=384,
        num_hidden_layers=6,
        num_attention_heads=12,
        num_key_value_heads=4,
        num_experts=options.experts,
        num_experts_per_tok=4,
        router_aux_loss_coef=0.0,
    )
    torch.manual_seed(0)
    model = Qwen3MoeForCausalLM(config)
    model.to(DTYPES[options.dtype]).save_pretrained(folder)  # type: ignore[arg-type]


def train(options: argparse.Namespace) -> dict[str, float]:
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    model, trained = (ours if options.side == "ours" else peers)(options)
    optimizer = torch.optim.AdamW(trained, lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(1)
    model.train()
    for step in range(STEPS):
        if step == SKIPPED_STEPS:
            start = time.perf_counter()
        ids = torch.randint(VOCABULARY, (options.rows, options.tokens), generator=generator)
        loss = model(input_ids=ids, labels=ids, use_cache=False).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    seconds = time.perf_counter() - start
    return {
        "tokens_per_second": (STEPS - SKIPPED_STEPS) * options.rows * options.tokens / seconds,
        "bytes": peak_memory_bytes("cpu"),
        "loss": float(loss),
    }


def ours(options: argparse.Namespace) -> tuple[PreTrainedModel, list[torch.nn.Parameter]]:
    model = load_base_model(options.model, dtype=DTYPES[options.dtype], device="cpu")
    method = LoraMethod(rank=RANK, alpha=ALPHA, target_modules=ATTENTION, target_parameters=STACKS)
    adapter = LoraAdapter.attach(model, method)
    fast_modules.install(model)
    return model, list(adapter.parameters().values())


def peers(options: argparse.Namespace) -> tuple[Any, list[torch.nn.Parameter]]:
    from peft import LoraConfig, get_peft_model

    base = AutoModelForCausalLM.from_pretrained(options.model, dtype=DTYPES[options.dtype])
    config = LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=ATTENTION, target_parameters=STACKS)
    model = get_peft_model(base, config)
    return model, [parameter for parameter in model.parameters() if parameter.requires_grad]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--experts", type=int, default=32)
    parser.add_argument("--rows", type=int, default=4)
    parser.add_argument("--tokens", type=int, default=256, help="of a row")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", choices=["ours", "peer"], help=argparse.SUPPRESS)  # For the process of a round.
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
