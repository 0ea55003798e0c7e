"""Our engine against TRL + PEFT: the same rows, model, rank and batch, alternating, each run in a fresh process.

    python -m benchmarks.engine --model FOLDER --peer-python PEER/bin/python [--rows gsm8k.jsonl] [--rounds 3]

Prints medians and ratios. Machines are noisy, so only compare numbers within one call.
    tokens/s   tokens without padding, by wall clock from the end of step 2 to the end of the last step
    per CPU s  the same tokens by the process's CPU time, which unlike the wall clock is hardly affected by other
               processes; with more than one thread, waiting counts as work
    peak       largest resident memory of the process (allocated GPU memory with --device cuda)
    ceiling    our tokens per CPU second (per second on a GPU) × the FLOP of a token's matrix products
               / the GFLOP that this machine reaches in that time with only such products
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from benchmarks.rows import write_rows

HERE = Path(__file__).parent
POLL_SECONDS = 0.02
PEER_WITH_LIGER = "peer with Liger"
BASES = ("bfloat16", "float32", "nf4")
SKIPPED_STEPS = 2  # Warm-up: caches, first allocations.


@dataclass(frozen=True)
class Measured:
    """One run of one side."""

    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_bytes: int
    losses: list[float]
    supervised_share: float = 0.0


def main() -> None:
    measure(parse())


def measure(options: argparse.Namespace) -> None:
    """Run everything and print the tables."""
    print(f"{platform.machine()}, {cpu_name()}, {os.cpu_count()} cores, {options.threads} threads, {options.device}")
    versions: dict[str, str] = {}
    figures: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows = write_rows(folder / "rows.jsonl", options.count, options.rows)
        for base in options.bases:
            ours, ceilings = [], []
            peers: dict[str, list[Measured]] = {peer: [] for peer in peers_of(options)}
            for number in range(options.rounds):
                if not options.no_ceiling:
                    ceilings.append(run_ceiling(options, base))
                ours.append(run_ours(options, rows, base, folder / f"{base}-{number}"))
                show(f"{base} round {number + 1}: ours", ours[-1])
                for peer, runs in peers.items():
                    measured, said = run_peer(options, rows, base, with_liger=peer == PEER_WITH_LIGER)
                    versions |= said
                    runs.append(measured)
                    show(f"{base} round {number + 1}: {peer}", measured)
            report(base, options.device == "cuda", ours, peers, ceilings)
            figures[f"{base}: tokens/s"] = [run.tokens_per_second for run in ours]
            figures[f"{base}: tokens per CPU second"] = [run.tokens_per_cpu_second for run in ours]
            figures[f"{base}: GB at most"] = [run.peak_bytes / 1e9 for run in ours]
    if options.json:  # For `benchmarks.compare`.
        options.json.write_text(json.dumps(figures, indent=2))
    if versions:
        print("peer: " + ", ".join(f"{package} {version}" for package, version in versions.items()))


def peers_of(options: argparse.Namespace) -> list[str]:
    """Return the peers. Liger's kernels need Triton, so only on a GPU, if the peer's environment has them."""
    if not options.peer_python:
        return []
    find = "import importlib.util, sys; sys.exit(importlib.util.find_spec('liger_kernel') is None)"
    has_liger = subprocess.run([options.peer_python, "-c", find]).returncode == 0
    return ["peer", PEER_WITH_LIGER] if has_liger and options.device == "cuda" else ["peer"]


def run_ours(options: argparse.Namespace, rows: Path, base: str, output_dir: Path) -> Measured:
    method = {"type": "qlora" if base == "nf4" else "lora", "rank": options.rank, "alpha": 2 * options.rank}
    spec = {
        "base_model": str(options.model),
        "dataset": {"path": str(rows)},
        "method": method,
        "training": {
            "micro_batch_size": options.micro_batch_size,
            "max_seq_len": options.max_seq_len,
            "learning_rate": 2e-4,
            "schedule": "constant",
            "warmup_ratio": 0,
        },
        "runtime": {"dtype": dtype_of(base)},
    }
    run = {
        "spec": spec,
        "base_model_dir": str(options.model),
        "base_model_name": options.model.name,
        "datasets": [{"path": str(rows), "sha256": hashlib.sha256(rows.read_bytes()).hexdigest()}],
        "output_dir": str(output_dir),
        "device": options.device,
        "threads": options.threads,
    }
    document = output_dir.with_suffix(".json")
    document.write_text(json.dumps(run))
    events = output_dir / "events.jsonl"
    clock = StepClock(events)
    _, peak = run_process([sys.executable, "-m", "finetune_hub.engine", "train", str(document)], clock)
    lines = map(json.loads, events.read_text().splitlines())
    steps = [event for event in lines if event["type"] == "step"]
    timed = steps[SKIPPED_STEPS:]
    tokens = sum(step["tokens"] for step in timed)
    return Measured(
        tokens / (timed[-1]["at"] - steps[SKIPPED_STEPS - 1]["at"]),
        tokens / (clock.cpu_seconds[-1] - clock.cpu_seconds[SKIPPED_STEPS - 1]),
        steps[-1]["peak_memory_bytes"] if options.device == "cuda" else peak,
        [step["loss"] for step in steps],
        sum(step["supervised_tokens"] for step in timed) / tokens,
    )


def run_peer(
    options: argparse.Namespace, rows: Path, base: str, *, with_liger: bool
) -> tuple[Measured, dict[str, str]]:
    settings = {
        "model": options.model,
        "rows": rows,
        "base": base,
        "device": options.device,
        "threads": options.threads,
        "micro-batch-size": options.micro_batch_size,
        "max-seq-len": options.max_seq_len,
        "rank": options.rank,
    }
    flags = [part for key, value in settings.items() for part in (f"--{key}", str(value))]
    flags += ["--liger"] if with_liger else []
    output, peak = run_process([options.peer_python, str(HERE / "peer_trl.py"), *flags])
    said = json.loads(output.splitlines()[-1])
    ended_at = said["step_ended_at"]
    # The peer shuffles differently, so use the mean tokens per step.
    tokens = said["tokens"] * (len(ended_at) - SKIPPED_STEPS) / len(ended_at)
    seconds = ended_at[-1] - ended_at[SKIPPED_STEPS - 1]
    cpu_seconds = said["step_cpu_seconds"][-1] - said["step_cpu_seconds"][SKIPPED_STEPS - 1]
    measured = Measured(tokens / seconds, tokens / cpu_seconds, said["peak_gpu_bytes"] or peak, said["losses"])
    return measured, said["versions"]


def run_ceiling(options: argparse.Namespace, base: str) -> dict[str, float]:
    flags = ["--model", str(options.model), "--dtype", dtype_of(base), "--device", options.device]
    output, _ = run_process([sys.executable, str(HERE / "ceiling.py"), *flags, "--threads", str(options.threads)])
    measured: dict[str, float] = json.loads(output.splitlines()[-1])
    return measured


def dtype_of(base: str) -> str:
    """Return the dtype of products."""
    return "bfloat16" if base == "nf4" else base


class StepClock:
    """Reads a process's CPU time for every new step in its events file. Linux only; nan elsewhere."""

    def __init__(self, events: Path) -> None:
        self.events = events
        self.cpu_seconds: list[float] = []

    def look(self, pid: int) -> None:
        steps = self.events.read_bytes().count(b'"type":"step"') if self.events.exists() else 0
        self.cpu_seconds += [cpu_seconds_of(pid)] * (steps - len(self.cpu_seconds))


def cpu_seconds_of(pid: int) -> float:
    """Return user and system time of all threads of a process, even after it ended, until it is waited for."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return math.nan
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def run_process(command: list[str], clock: StepClock | None = None) -> tuple[str, int]:
    """Run a process that must succeed; return its stdout and its largest resident memory in bytes."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryFile("w+") as stderr, tempfile.TemporaryFile("w+") as stdout:
        process = subprocess.Popen(command, stdout=stdout, stderr=stderr, env=environment)
        while True:
            ended, status, usage = os.wait4(process.pid, 0 if clock is None else os.WNOHANG)
            if ended:
                break
            if clock is not None:
                clock.look(process.pid)
            time.sleep(POLL_SECONDS)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            stderr.seek(0)
            raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{stderr.read()[-4000:]}")
        stdout.seek(0)
        return stdout.read(), usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def show(who: str, measured: Measured) -> None:
    speeds = f"{measured.tokens_per_second:8.1f} tokens/s {measured.tokens_per_cpu_second:8.1f} per CPU s"
    print(f"{who:<28} {speeds} {measured.peak_bytes / 1e9:6.2f} GB", flush=True)


def report(
    base: str, is_gpu: bool, ours: list[Measured], peers: dict[str, list[Measured]], ceilings: list[dict[str, float]]
) -> None:
    """Print medians over the rounds; a ratio is the median of the rounds' ratios."""
    compared = peers or {"peer": []}
    heads = "".join(f" {peer} | ratio |" for peer in compared)
    print(f"\n| {base} | ours |{heads}\n|---|---|{'---|---|' * len(compared)}")
    for name, unit, scale in (
        ("tokens_per_second", "tokens/s", 1.0),
        ("tokens_per_cpu_second", "tokens per CPU second", 1.0),
        ("peak_bytes", "GB at most", 1e-9),
    ):
        cells = [f"{median(getattr(run, name) for run in ours) * scale:.3g}"]
        for runs in compared.values():
            ratios = [getattr(us, name) / getattr(peer, name) for us, peer in zip(ours, runs, strict=False)]
            cells += [f"{median(getattr(run, name) for run in runs) * scale:.3g}" if runs else "-"]
            cells += [f"{median(ratios):.2f}x" if ratios else "-"]
        print(f"| {unit} | {' | '.join(cells)} |")
    losses = "".join(f" {mean(runs[0].losses):.3f} | |" if runs else " - | |" for runs in compared.values())
    print(f"| mean loss | {mean(ours[0].losses):.3f} |{losses}")
    if ceilings:
        print(f"| {share_of_ceiling(is_gpu, ours, ceilings)} |{' | |' * len(compared)}")
    print(flush=True)


def share_of_ceiling(is_gpu: bool, ours: list[Measured], ceilings: list[dict[str, float]]) -> str:
    """Return the ceiling and our share of it. The ceiling is per CPU second, or per second on a GPU."""
    speed = median(run.tokens_per_second if is_gpu else run.tokens_per_cpu_second for run in ours)
    ceiling = max(ceilings, key=lambda measured: measured["gflops"])
    flop_per_token = ceiling["flop_per_token"] + ours[0].supervised_share * ceiling["flop_per_supervised_token"]
    reached = speed * flop_per_token / (1e9 * ceiling["gflops"])
    return f"of the products' {ceiling['gflops']:.0f} GFLOP {'/ s' if is_gpu else '/ CPU s'} | {reached:.0%}"


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown CPU")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=lambda text: Path(text).resolve(), required=True, help="a base model's folder")
    parser.add_argument("--rows", type=Path, help="JSONL with `question` and `answer` (GSM8K); generated by default")
    parser.add_argument("--count", type=int, default=48, help="rows to train on")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--bases", nargs="+", choices=BASES, default=BASES, help="dtype or quantisation of the base model"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--micro-batch-size", type=int, default=4)
    parser.add_argument("--max-seq-len", type=int, default=512)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument(
        "--peer-python", help="Python of an environment with trl; without it only our engine is measured"
    )
    parser.add_argument("--no-ceiling", action="store_true", help="skip the ceiling")
    parser.add_argument("--json", type=Path, help="write our side's figures to this file too")
    return parser.parse_args()


if __name__ == "__main__":
    main()
