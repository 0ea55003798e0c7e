"""How fast this machine multiplies matrices of the model's shapes: the upper bound for training speed.

Prints one JSON line: GFLOP per CPU second (per second on a GPU), and the FLOP of one token (forward and the inputs'
gradient, 2 + 2 per parameter). If our kernels multiply 16 bits in float32, so does this.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_hub.engine.kernels.products import product_dtype

TOKENS = 800
ROUNDS = 4
# The kernel counts the CPU time of a process's other threads only in ticks, so a round lasts many ticks.
ROUND_SECONDS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(options.model))  # type: ignore[no-untyped-call]
    head = model.get_output_embeddings()
    linears = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    shapes = [(linear.out_features, linear.in_features) for linear in linears]
    seconds = {shape: fastest(shape, getattr(torch, options.dtype), options.device) for shape in set(shapes)}
    parameters = sum(out * into for out, into in shapes)
    print(
        json.dumps(
            {
                "gflops": 4e-9 * TOKENS * parameters / sum(seconds[shape] for shape in shapes),
                "flop_per_token": 4 * parameters,
                "flop_per_supervised_token": 4 * head.weight.numel(),
            }
        )
    )


def fastest(shape: tuple[int, int], dtype: torch.dtype, device: str) -> float:
    """Return the seconds of the forward and backward products, the best of several rounds."""
    weight = torch.randn(shape, dtype=dtype, device=device)
    weight = weight.to(product_dtype(weight))
    x = torch.randn(TOKENS, shape[1], dtype=weight.dtype, device=device)
    clock = time.perf_counter if device == "cuda" else time.process_time
    products, best = 1, float("inf")
    for number in range(ROUNDS + 1):
        start = clock()
        for _ in range(products):
            torch.nn.functional.linear(x, weight) @ weight
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = (clock() - start) / products
        if number:
            best = min(best, seconds)
        else:  # The first round warms up and calibrates the length of the others.
            products = math.ceil(ROUND_SECONDS / seconds)
    return best


if __name__ == "__main__":
    main()
