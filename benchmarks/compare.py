"""Compare this checkout with an earlier commit: engine, hub and pages, with this checkout's benchmarks and no peer.

    make compare-with REV=<commit>

Both sides are copies in a temporary folder, one of the commit and one of this checkout with uncommitted changes, and
run with this environment's packages; `benchmarks/` is this checkout's in both. They alternate, in an order that changes
every round. A ratio is the median of the rounds' ratios, shown with the smallest and the largest. It is within noise
if its distance from 1 is at most the distance between these, or 2%. If a side cannot run a benchmark, its row says so,
and the others continue.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from benchmarks.engine import cpu_name
from benchmarks.running_hub import clean_environment

ROOT = Path(__file__).parents[1]
COPIED = "benchmarks"  # From this checkout, in both trees.
TEMPORARY = "tmp"
MORE_IS_BETTER = ("tokens/s", "tokens per CPU second")
SMALLEST_DIFFERENCE = 0.02
LAST_WORDS = 300
STOP_SECONDS = 60.0
NO_TIME = "no time was left for it"
WITHIN_NOISE, ONE_ROUND = "within noise", "one round"
# SmolLM2-135M's widths with fewer layers and a byte tokenizer, created here so that nothing is fetched.
MODEL = {"hidden": 576, "inner": 1536, "layers": 8, "heads": 9, "kv": 3, "vocab": 49_152}
ENGINE = ("--rounds", "1", "--count", "16", "--micro-batch-size", "2", "--no-ceiling")


@dataclass(frozen=True)
class Benchmark:
    """A module that writes its figures, name to list of values, to the file given with `--json`."""

    part: str
    module: str
    options: Sequence[str] = ()
    variant: str = ""

    @property
    def name(self) -> str:
        return f"{self.part} {self.variant}".strip()


@dataclass
class Side:
    """A source tree and its measurements: figure to values, one per round."""

    name: str
    tree: Path
    values: dict[str, list[float]] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


def main() -> None:
    options = parse()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="fh-compare-", ignore_cleanup_errors=True) as name:
        folder = Path(name).resolve()
        folder.chmod(0o711)  # As root, Postgres runs as another user and needs access.
        sides = make_sides(ROOT, options.rev, folder)
        model = options.model or make_model(folder / "model")
        listed = [benchmark for benchmark in benchmarks_over(model) if benchmark.part in options.only]
        left = began + 60 * options.minutes - time.monotonic()
        rounds = measure(sides, listed, rounds=options.rounds, seconds=left, folder=folder)
    print(f"\n{description(sides)}, {rounds} whole rounds in {(time.monotonic() - began) / 60:.0f} minutes.\n")
    print("\n".join(table(*sides)))
    if options.json:
        options.json.write_text(json.dumps([vars(side) | {"tree": None} for side in sides], indent=2) + "\n")


def benchmarks_over(model: Path) -> list[Benchmark]:
    over = ("--model", str(model))
    bases = ("bfloat16", "float32", "nf4")
    return [
        *(Benchmark("engine", "benchmarks.engine", (*over, *ENGINE, "--bases", base), base) for base in bases),
        Benchmark("hub", "benchmarks.hub", (*over, "--rounds", "1", "--count", "8")),
        Benchmark("pages", "benchmarks.pages", ("--jobs", "1000", "--points", "100000", "--rounds", "20")),
    ]


# ---- the two trees


def make_sides(root: Path, rev: str, folder: Path) -> tuple[Side, Side]:
    """Copy a checkout and one of its commits, both with the checkout's benchmarks.

    Raises:
        SystemExit: the commit is unknown, or something else than the copy would run.
    """
    found = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "--verify", f"{rev}^{{commit}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    if found.returncode:
        raise SystemExit(f"There is no commit {rev!r} here. `git log --oneline` lists them.")
    ours, theirs = Side("this checkout", folder / "ours"), Side(found.stdout.strip(), folder / "theirs")
    (folder / TEMPORARY).mkdir(mode=0o711)
    copy_checkout(root, ours.tree)
    copy_commit(root, theirs.name, theirs.tree)
    shutil.rmtree(theirs.tree / COPIED, ignore_errors=True)
    shutil.copytree(ours.tree / COPIED, theirs.tree / COPIED)
    for side in (ours, theirs):
        require_own_product(side)
        # Neither side compiles while it is measured.
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(side.tree)], stdout=subprocess.DEVNULL)
    return ours, theirs


def copy_checkout(root: Path, tree: Path) -> None:
    """Copy committed and uncommitted files, except those that git ignores."""
    command = ["git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for path in filter(None, listed.split("\0")):
        if (root / path).is_file():  # Skip deleted files that are still in the index.
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / path, tree / path)


def copy_commit(root: Path, rev: str, tree: Path) -> None:
    archive = subprocess.run(["git", "-C", str(root), "archive", rev], capture_output=True, check=True).stdout
    tree.mkdir()
    subprocess.run(["tar", "-x", "-C", str(tree)], input=archive, check=True)


def environment_of(side: Side) -> dict[str, str]:
    """Return the environment. PYTHONPATH precedes installed packages, even editable ones, and works with -P.

    Leftover temporary files of a terminated benchmark are deleted with ours.
    """
    return clean_environment() | {"PYTHONPATH": str(side.tree), "TMPDIR": str(side.tree.parent / TEMPORARY)}


def require_own_product(side: Side) -> None:
    """
    Raises:
        SystemExit: something else than the side's tree would be measured.
    """
    ask = [sys.executable, "-P", "-c", "import finetune_hub; print(finetune_hub.__file__)"]
    said = subprocess.run(ask, env=environment_of(side), capture_output=True, text=True, check=True).stdout.strip()
    if not Path(said).is_relative_to(side.tree):
        raise SystemExit(f"{side.name} would run {said}, not its own copy in {side.tree}.")


def make_model(folder: Path) -> Path:
    """Create the model in a separate process, to free its memory before measuring."""
    program = f"import pathlib, benchmarks.planner as p; p.make_base(pathlib.Path({str(folder)!r}), **{MODEL})"
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, env=os.environ | {"TQDM_DISABLE": "1"})
    return folder


# ---- the rounds


def measure(
    sides: tuple[Side, Side], benchmarks: Sequence[Benchmark], *, rounds: int, seconds: float, folder: Path
) -> int:
    """Run rounds while time is left; return the number of complete ones. The first reports what it had no time for."""
    give_up = time.monotonic() + seconds
    longest = 0.0
    for number in range(rounds):
        start = time.monotonic()
        if number and start + longest > give_up:
            print(f"No time for round {number + 1}.", flush=True)
            return number
        for benchmark in benchmarks:
            for side in sides if number % 2 == 0 else reversed(sides):
                if benchmark.name in side.failures:
                    continue
                try:
                    run(side, benchmark, file=folder / "figures.json", seconds=give_up - time.monotonic())
                except subprocess.TimeoutExpired:
                    if number:
                        print(f"Time was up in round {number + 1}.", flush=True)
                        return number
                    side.failures[benchmark.name] = NO_TIME
        longest = max(longest, time.monotonic() - start)
        print(f"Round {number + 1} took {(time.monotonic() - start) / 60:.1f} minutes.", flush=True)
    return rounds


def run(side: Side, benchmark: Benchmark, *, file: Path, seconds: float) -> None:
    """Run a benchmark on a side's tree and store its figures, or the last output of a failed one.

    Raises:
        TimeoutExpired: it took longer and was terminated.
    """
    file.unlink(missing_ok=True)
    log = file.with_suffix(".log")
    command = [sys.executable, "-m", benchmark.module, *benchmark.options, "--json", str(file)]
    with log.open("w") as stream:
        process = subprocess.Popen(
            command,
            cwd=side.tree,
            env=environment_of(side),
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        process.wait(max(seconds, 1))
    finally:
        end(process)
    said = log.read_text()
    if process.returncode == 0 and file.exists():
        for name, values in json.loads(file.read_text()).items():
            side.values.setdefault(f"{benchmark.part}, {name}", []).append(median(values))
        print(f"{side.name}: {benchmark.name}", flush=True)
    else:
        side.failures[benchmark.name] = (said.strip().splitlines() or ["it said nothing"])[-1][:LAST_WORDS]
        print(f"{side.name}: {benchmark.name} failed: {said[-4000:]}", flush=True)


def end(process: subprocess.Popen[bytes]) -> None:
    """Stop a running benchmark like Ctrl-C, so that it stops the processes that it started."""
    for number in (signal.SIGINT, signal.SIGKILL):
        if process.poll() is None:
            os.killpg(process.pid, number)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                continue


# ---- output


def table(ours: Side, theirs: Side) -> list[str]:
    """Return a Markdown table for a report. Only pages that clearly differ get their own rows."""
    lines = [f"| | {ours.name} | {theirs.name} | ratio | of the rounds |", "|---|---|---|---|---|"]
    for name in dict.fromkeys([*ours.values, *theirs.values]):
        our, their = ours.values.get(name, []), theirs.values.get(name, [])
        ratios = [us / them for us, them in zip(our, their, strict=False) if them]
        verdict = verdict_on(name, ratios)
        if name.startswith("pages, /") and verdict in {ONE_ROUND, WITHIN_NOISE}:
            continue
        ratio = f"{median(ratios):.2f}x" if ratios else ""
        spread = f"{min(ratios):.2f}–{max(ratios):.2f}, " if len(ratios) > 1 else ""
        lines.append(f"| {name} | {typical(our)} | {typical(their)} | {ratio} | {spread}{verdict} |")
    for name in dict.fromkeys([*ours.failures, *theirs.failures]):
        cells = [side.failures.get(name, "ran").replace("|", "/") for side in (ours, theirs)]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | | not compared |")
    return lines


def verdict_on(name: str, ratios: list[float]) -> str:
    """Return whether this checkout is better, worse, or within noise."""
    if not ratios:
        return "on one side only"
    if len(ratios) == 1:
        return ONE_ROUND
    if abs(median(ratios) - 1) <= max(max(ratios) - min(ratios), SMALLEST_DIFFERENCE):
        return WITHIN_NOISE
    return "better" if (median(ratios) > 1) == name.endswith(MORE_IS_BETTER) else "worse"


def typical(values: list[float]) -> str:
    return f"{median(values):.3g}" if values else "–"


def description(sides: tuple[Side, Side]) -> str:
    ours, theirs = sides
    return f"{ours.name} against {theirs.name}: {platform.machine()}, {cpu_name()}, {os.cpu_count()} cores"


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rev", required=True, help="the commit to compare with")
    parser.add_argument("--minutes", type=float, default=19.0, help="stop after this many minutes")
    parser.add_argument("--rounds", type=int, default=3, help="at most")
    parser.add_argument("--only", nargs="+", choices=["engine", "hub", "pages"], default=["engine", "hub", "pages"])
    parser.add_argument("--model", type=Path, help="a base model's folder; by default a random one with 57M parameters")
    parser.add_argument("--json", type=Path, help="write all values of all rounds to this file")
    return parser.parse_args()


if __name__ == "__main__":
    main()
