"""What a CUDA build of torch can prove on a machine without a GPU, and a report of it.

    python -m tests.cuda --report docs/gpu-report.md

Our fused functions compile to the machine code of three generations of GPUs, and the engine's code for a GPU is gone
through over a stand-in for one. `make verify-full PART=cuda` makes the environment for it.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
from collections import defaultdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

CAPABILITIES = {80: "A100", 90: "H100, H200", 100: "B200"}
HEAD = """# What is proven for CUDA without a GPU

`make verify-full PART=cuda` wrote this on {date}, on a machine without an NVIDIA GPU or driver: {versions}.
Nothing below ran on a GPU, and no figure is a speed. docs/gpu.md says what that leaves open.

"""
KERNELS = """## Kernels that torch.compile makes of ours

For Llama-3.2-1B's shapes, each function in bfloat16, float16 and float32. Triton compiled every kernel in each way of
launching that it would try, down to machine code for {targets}. The sizes are of the largest, in bytes.

| Function | Kernels | {columns} | shared memory at most |
|---|---|{lines}---|
"""
RUNS = """
## Runs over the stand-in

{count} runs of the training loop over fake tensors, the engine taking the stand-in for a GPU: {traced} went through.

"""
BRANCHES = """## The engine's code for a GPU

Every condition and statement in `finetune_hub/engine` that names CUDA, and whether these runs went there.

| Where | What | traced |
|---|---|---|
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--report", type=Path, help="A Markdown file; standard output otherwise.")
    options = parser.parse_args()
    if torch.version.cuda is None:
        raise SystemExit(f"torch {torch.__version__} is not built for CUDA, and so has no compiler for it.")
    if torch.cuda.is_available():
        raise SystemExit("This machine has a GPU, which proves more: `python -m benchmarks.gpu`.")
    report = _head() + _kernels()
    import tests.cuda.renamed  # noqa: F401 (before anything of the engine)
    from tests.cuda.trace_branches import trace

    outcomes, branches = trace()
    failed = {words: outcome for words, outcome in outcomes.items() if not outcome.startswith("traced")}
    report += RUNS.format(count=len(outcomes), traced=len(outcomes) - len(failed))
    report += "".join(f"- {words}: {outcome}\n" for words, outcome in failed.items()) + "\n" * bool(failed) + BRANCHES
    for branch in branches:
        report += f"| {branch.file}:{branch.line} | `{branch.condition[:100]}` | {'yes' if branch.traced else 'no'} |\n"
    if options.report:
        options.report.write_text(report, encoding="utf-8")
    print(report)
    return 1 if failed else 0


def _head() -> str:
    versions = [f"Python {platform.python_version()}"]
    versions += [f"{name} {version(name)}" for name in ("torch", "triton", "transformers", "bitsandbytes")]
    return HEAD.format(date=f"{datetime.now(UTC):%-d %B %Y}", versions=", ".join(versions))


def _kernels() -> str:
    """Each architecture in a process of its own: Inductor asks for the device once."""
    found: dict[str, dict[int, list[dict[str, Any]]]] = defaultdict(lambda: defaultdict(list))
    for capability in CAPABILITIES:
        command = [sys.executable, "-W", "ignore", "-m", "tests.cuda.compile_kernels", str(capability)]
        ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        for line in ended.stdout.splitlines():
            kernel = json.loads(line)
            found[kernel["function"]][capability].append(kernel)
    text = KERNELS.format(
        targets=", ".join(f"sm_{capability} ({cards})" for capability, cards in CAPABILITIES.items()),
        columns=" | ".join(f"sm_{capability}" for capability in CAPABILITIES),
        lines="---|" * len(CAPABILITIES),
    )
    for function, by_capability in found.items():
        kernels = [kernel for made in by_capability.values() for kernel in made]
        sizes = [max(kernel["cubin_bytes"] for kernel in by_capability[capability]) for capability in CAPABILITIES]
        count = " / ".join(str(sum(kernel["variants"] for kernel in by_capability[it])) for it in CAPABILITIES)
        shared = max(kernel["shared_bytes"] for kernel in kernels)
        text += f"| {function} | {count} | {' | '.join(f'{size:,}' for size in sizes)} | {shared:,} |\n"
    return text


if __name__ == "__main__":
    sys.exit(main())
