"""All that wants a GPU, in one call: the GPU tests, then our engine against its peers on a model of 1.2B parameters.

    python -m benchmarks.gpu [--peer-python PEER/bin/python] [--rows gsm8k_train.jsonl] [--rounds 3]

The base model is random, of Llama-3.2-1B's shape, with a tokenizer of 256 bytes: nothing is fetched. Prints the card,
the tests' summary, and the tables of `engine.py`. `--tiny --device cpu` runs the same code in a minute without a GPU.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from benchmarks import engine
from benchmarks.planner import make_base

LLAMA_1B: dict[str, Any] = {"hidden": 2048, "inner": 8192, "layers": 16, "heads": 32, "kv": 8, "vocab": 128_256}
TINY: dict[str, Any] = {"hidden": 64, "inner": 128, "layers": 2, "heads": 4, "kv": 2, "vocab": 512}


def main() -> None:
    options = parse()
    if options.device == "cuda":
        if not torch.cuda.is_available():
            raise SystemExit("This machine has no CUDA GPU. `--tiny --device cpu` tries the script without one.")
        print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}", flush=True)
        # A test that fails is told, and does not keep the figures back.
        subprocess.run([sys.executable, "-m", "pytest", "-q", "tests/gpu"], cwd=Path(__file__).parents[1])
    options.no_ceiling, options.json = False, None
    with tempfile.TemporaryDirectory() as name:
        options.model = make_base(Path(name), **(TINY if options.tiny else LLAMA_1B))
        engine.measure(options)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cuda")
    parser.add_argument("--tiny", action="store_true", help="a model of two small layers")
    parser.add_argument("--rows", type=Path, help="JSONL with `question` and `answer` (GSM8K); made up when left out")
    parser.add_argument("--count", type=int, default=256, help="rows to train on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--bases", nargs="+", choices=engine.BASES, default=["bfloat16", "nf4"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--micro-batch-size", type=int, default=8)
    parser.add_argument("--max-seq-len", type=int, default=1024)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--peer-python", help="Python of an environment with trl; its liger-kernel is a peer more")
    return parser.parse_args()


if __name__ == "__main__":
    main()
