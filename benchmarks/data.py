"""How fast a dataset file is checked, and with how much memory, compared with Hugging Face datasets and polars.

    python -m benchmarks.data [--rows 2000000] [--peer-python ../peer/bin/python] [--folder FOLDER]

Ours reads the file, checks every row, writes the stored rows and hashes them: the cost of an upload without network.
The peers only read it and check that it is JSON: datasets into its Arrow cache, polars in its streaming engine. Each
runs in a fresh process; memory is the peak minus the memory after imports.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.peer_data import memory_bytes

PEERS = ("datasets", "polars")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=2_000_000, help="Rows of about 500 bytes each.")
    parser.add_argument("--peer-python", type=Path, help="A Python with datasets and polars.")
    parser.add_argument("--folder", type=Path, help="Folder for the file; by default a temporary one.")
    parser.add_argument("--check", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.check:
        print(json.dumps(check(arguments.check)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        path = write_rows(Path(temporary) / "rows.jsonl", arguments.rows)
        results = {"ours": run([sys.executable, "-m", "benchmarks.data", "--check", str(path)])}
        if arguments.peer_python:
            script = str(Path(__file__).with_name("peer_data.py"))
            results |= {peer: run([str(arguments.peer_python), script, peer, str(path)]) for peer in PEERS}
        print_table(results, path.stat().st_size)


def write_rows(path: Path, count: int) -> Path:
    """Write conversations of three turns, each row different."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            messages = [
                {"role": "system", "content": "Turn the customer's ticket into JSON with topic, urgency and order."},
                {"role": "user", "content": f"My order {number} is late, and nobody answers. " + "Please help! " * 17},
                {
                    "role": "assistant",
                    "content": f'{{"topic": "delivery", "urgency": {number % 5}, "order": {number}}}',
                },
            ]
            file.write(json.dumps({"messages": messages}) + "\n")
    return path


def check(path: Path) -> dict[str, Any]:
    """Run our side in this process."""
    from finetune_hub.data.report import look_at

    with tempfile.TemporaryDirectory(dir=path.parent) as kept:
        before = memory_bytes("VmRSS")
        started, cpu = time.perf_counter(), time.process_time()
        report = look_at(path, keep_in=Path(kept))
        seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu
    report.raise_for_errors()
    peak = memory_bytes("VmHWM")
    found = {"rows": report.row_count, "before_bytes": before, "peak_bytes": peak, "version": "this checkout"}
    return found | {"seconds": seconds, "cpu_seconds": cpu_seconds}


def run(command: list[str]) -> dict[str, Any]:
    """Run the command and return the last JSON line that it prints."""
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def print_table(results: dict[str, dict[str, Any]], size_bytes: int) -> None:
    megabytes = size_bytes / 1e6
    print(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(f"{next(iter(results.values()))['rows']:,} rows, {megabytes:,.0f} MB\n")
    print("| | version | seconds | CPU seconds | rows/s | MB/s | MB of memory at most |\n|---|---|---|---|---|---|---|")
    for name, result in results.items():
        seconds = result["seconds"]
        memory = (result["peak_bytes"] - result["before_bytes"]) / 1e6
        print(
            f"| {name} | {result['version']} | {seconds:.1f} | {result['cpu_seconds']:.1f} | "
            f"{result['rows'] / seconds:,.0f} | {megabytes / seconds:,.0f} | {memory:,.0f} |"
        )


if __name__ == "__main__":
    main()
