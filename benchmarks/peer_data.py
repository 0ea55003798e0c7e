"""The peers of `benchmarks.data`, in their own environment: read a whole JSONL file with datasets or polars.

    python peer_data.py datasets|polars FILE

Prints one JSON line: seconds, rows, memory before and at the peak in bytes, and version.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path


def read_with_datasets(path: Path) -> int:
    """Read into Arrow files in a new cache, as `load_dataset` does the first time."""
    import datasets

    datasets.disable_progress_bars()
    with tempfile.TemporaryDirectory(dir=path.parent) as cache:
        rows = datasets.load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
        return len(rows)


def read_with_polars(path: Path) -> int:
    """Parse every value, in polars' streaming engine."""
    import polars

    counted = polars.scan_ndjson(path).select(polars.col("messages").list.len().count()).collect(engine="streaming")
    return int(counted.item())


def memory_bytes(name: str) -> int:
    """Return `VmRSS` or `VmHWM` (the peak) of this process."""
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


if __name__ == "__main__":
    peer, file = sys.argv[1], Path(sys.argv[2])
    module = __import__(peer)
    before = memory_bytes("VmRSS")
    started, cpu = time.perf_counter(), time.process_time()
    rows = {"datasets": read_with_datasets, "polars": read_with_polars}[peer](file)
    result = {
        "seconds": time.perf_counter() - started,
        "cpu_seconds": time.process_time() - cpu,
        "rows": rows,
        "before_bytes": before,
        "peak_bytes": memory_bytes("VmHWM"),
        "version": module.__version__,
    }
    print(json.dumps(result))
