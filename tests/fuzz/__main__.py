"""Fuzz every parser that takes input from users, and write a report.

    python -m tests.fuzz --inputs 1000000 --seed 7 --report docs/fuzz.md

Wants `pip install atheris` and Linux on x86-64. An input that raises an unexpected error, takes longer than a second or
more memory than the limit fails the run, and is saved in the folder that the last line names.
"""

from __future__ import annotations

import argparse
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

MEMORY_MB = 1024
MAX_BYTES = 16_384
HEAD = """# Fuzzing

`tests/fuzz` sends mutated inputs to every parser that takes input from users, guided by the coverage of our code
(atheris {atheris}, libFuzzer). An input fails if it raises an error that is not meant for users, takes longer than
{seconds} s or makes the process exceed {memory} MB.

    {command}

{date}, commit {commit}, {cores} cores, {machine}.

| parser | inputs | inputs/s | branches covered | peak MB | findings |
|---|---|---|---|---|---|
"""


@dataclass(frozen=True)
class Fuzzed:
    """What became of one target."""

    name: str
    inputs: int
    seconds: float
    coverage: int
    peak_mb: int
    output: str
    is_clean: bool

    def row(self) -> str:
        rate = self.inputs / max(self.seconds, 1e-3)
        findings = "none" if self.is_clean else "see below"
        return f"| {self.name} | {self.inputs:,} | {rate:,.0f} | {self.coverage:,} | {self.peak_mb:,} | {findings} |\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=int, default=1, help="that one input may take; more on a busy machine")
    parser.add_argument("--only", help="one target's name")
    parser.add_argument("--report", type=Path, help="a Markdown file; standard output otherwise")
    options = parser.parse_args()
    shares = shares_of_targets()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-"))
    done = []
    for name, share in shares.items():
        if options.only in (None, name):
            inputs = -(-options.inputs * share // sum(shares.values()))
            done.append(fuzz(name, inputs, options, folder / name.replace(" ", "-")))
            print(done[-1].row(), end="", flush=True)
    report = HEAD.format(
        atheris=version("atheris"),
        seconds=options.seconds,
        memory=MEMORY_MB,
        command=f"python -m tests.fuzz --inputs {options.inputs} --seed {options.seed}",
        date=datetime.now(UTC).strftime("%-d %B %Y"),
        commit=commit_of_checkout(),
        cores=os.cpu_count(),
        machine=platform.machine(),
    )
    report += "".join(fuzzed.row() for fuzzed in done)
    report += f"\n{sum(fuzzed.inputs for fuzzed in done):,} inputs in all.\n"
    for fuzzed in done:
        if not fuzzed.is_clean:
            report += f"\n## {fuzzed.name}\n\n```\n{fuzzed.output}\n```\n"
    if options.report:
        options.report.write_text(report, encoding="utf-8")
    else:
        print(report)
    if all(fuzzed.is_clean for fuzzed in done):
        return 0
    print(f"The inputs that failed are in {folder}.", file=sys.stderr)
    return 1


def commit_of_checkout() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=9"]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def shares_of_targets() -> dict[str, int]:
    """Load the targets as the fuzzing processes do."""
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.offline_settings"
    import django

    django.setup()
    from tests.fuzz.targets import TARGETS

    return {name: target.share for name, target in TARGETS.items()}


def fuzz(name: str, inputs: int, chosen: argparse.Namespace, folder: Path) -> Fuzzed:
    """Fuzz one target in a process of its own."""
    corpus = folder / "corpus"
    corpus.mkdir(parents=True)
    options = {
        "runs": inputs,
        "seed": chosen.seed,
        "max_len": MAX_BYTES,
        "timeout": chosen.seconds,
        "rss_limit_mb": MEMORY_MB,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }
    flags = [f"-{key}={value}" for key, value in options.items()]
    began = time.monotonic()
    command = [sys.executable, "-m", "tests.fuzz.program", name, str(corpus), *flags]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = ran.stdout.decode(errors="replace")
    return Fuzzed(
        name=name,
        inputs=last_number(r"stat::number_of_executed_units: (\d+)", output),
        seconds=time.monotonic() - began,
        coverage=last_number(r"cov: (\d+)", output),
        peak_mb=last_number(r"stat::peak_rss_mb: +(\d+)", output),
        output="\n".join(output.splitlines()[-60:]),
        is_clean=ran.returncode == 0,
    )


def last_number(pattern: str, text: str) -> int:
    found = re.findall(pattern, text)
    return int(found[-1]) if found else 0


if __name__ == "__main__":
    sys.exit(main())
