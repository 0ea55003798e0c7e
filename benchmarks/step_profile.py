"""Where the time of a training step goes: torch's profile of our engine's step, summed by what operations are for.

    python -m benchmarks.step_profile --model FOLDER [--rows gsm8k_train.jsonl] [--dtype bfloat16] [--threads 1]

Shares are of the time inside operations. One thread is the default: with more, waiting counts as work.
"""

from __future__ import annotations

import argparse
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import write_rows
from finetune_hub.artifacts.manifest import sha256_of
from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.engine import library
from finetune_hub.engine.allocator import start_again_tuned
from finetune_hub.engine.dataset import load_dataset
from finetune_hub.engine.fast import fast_modules
from finetune_hub.engine.model import DTYPES, prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.machine.event_file import EventLog
from finetune_hub.spec.methods.low_rank import LoraMethod
from finetune_hub.spec.run import DatasetFile

PRODUCTS = ("aten::mm", "aten::addmm", "aten::addmm_")
PURPOSES = {
    "attention's products": ("aten::bmm", "aten::baddbmm_"),
    "attention's softmax": ("aten::_softmax", "aten::_softmax_backward_data"),
    "the MLP's activation": ("aten::silu", "aten::silu_backward", "aten::gelu", "aten::gelu_backward"),
    "copies and casts": ("aten::copy_", "aten::cat", "aten::clone", "aten::index_select", "aten::index"),
    "sums, products and squares of elements": tuple(
        f"aten::{name}"
        for name in ("add", "add_", "sub_", "mul", "mul_", "neg", "pow", "exp_", "mean", "sum", "amax", "rsqrt_")
    ),
}


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as name:
        step, tokens = make_step(options, Path(name))
    step()
    with torch.profiler.profile(record_shapes=True) as profile:
        step()
    seconds: Counter[str] = Counter()
    for event in profile.key_averages(group_by_input_shape=True):
        seconds[purpose_of(event.key, event.input_shapes, options.rank)] += event.self_cpu_time_total * 1e-6
    total = sum(seconds.values())
    print(
        f"{tokens} tokens, {options.dtype}, {options.threads} threads: {total:.2f} s, {tokens / total:.0f} tokens/s\n"
    )
    print("| what for | share |\n|---|---|")
    for purpose, spent in seconds.most_common():
        print(f"| {purpose} | {spent / total:.1%} |")


def make_step(options: argparse.Namespace, folder: Path) -> tuple[Callable[[], Any], int]:
    """One micro batch forward and backward, as the training loop does it; and its tokens."""
    rows_file = write_rows(folder / "rows.jsonl", options.count, options.rows)
    file = DatasetFile(path=rows_file, sha256=sha256_of(rows_file))
    template = ChatTemplate.from_folder(options.model)
    rows = load_dataset(file, template, options.max_seq_len, EventLog(folder / "events.jsonl"), Sft.encode).rows
    model = library.load(options.model, dtype=DTYPES[options.dtype])
    adapter = library.apply(model, LoraMethod(rank=options.rank))
    paths = prove_fast_paths(model)
    fast_modules.install(model)
    model.train()
    supervised_tokens = sum(len(row.targets) for row in rows)

    def step() -> None:
        for parameter in adapter.parameters().values():
            parameter.grad = None
        backward(Sft(Setting(model, paths)), rows, supervised_tokens)[0]

    return step, sum(row.tokens for row in rows)


def purpose_of(operation: str, shapes: list[list[int]], rank: int) -> str:
    """The row of the table that an operation counts for."""
    if operation in PRODUCTS:
        sizes = {size for shape in shapes for size in shape}
        return "the adapter's thin products" if sizes & {rank, 2 * rank} else "products with frozen weights"
    return next(
        (purpose for purpose, names in PURPOSES.items() if operation in names), "all else, Python's own time included"
    )


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="a base model's folder")
    parser.add_argument("--rows", type=Path, help="JSONL with `question` and `answer` (GSM8K); made up when left out")
    parser.add_argument("--count", type=int, default=4, help="rows of the micro batch")
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(DTYPES))
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


if __name__ == "__main__":
    start_again_tuned()
    main()
