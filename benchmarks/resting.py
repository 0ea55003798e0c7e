"""Memory of a hub at rest, per part: proportional set size, in which a page shared by n processes counts 1/n each.

Linux only. Other programs with the same files open (a second hub in the same environment) share their pages too, which
makes the figure smaller, so measure without them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

UP = "up"


def memory_of_hub(status: dict[str, Any]) -> dict[str, int]:
    """Return bytes per part with all its descendants; `up` is everything else: itself and its guard.

    Args:
        status: The output of `finetune-hub status --json`.
    """
    part_of = {part["identity"]["pid"]: part["name"] for part in status["parts"] if part["identity"]}
    children = children_of_all()
    memory = {UP: 0} | dict.fromkeys(part_of.values(), 0)
    waiting = [(status["identity"]["pid"], UP)]
    while waiting:
        pid, part = waiting.pop()
        part = part_of.get(pid, part)
        memory[part] += pss_bytes(pid)
        waiting += [(child, part) for child in children[pid]]
    return memory


def children_of_all() -> dict[int, list[int]]:
    """Return the children of every process that has any."""
    children = defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # The process has just ended.
            continue
        children[int(fields[1])].append(int(file.parent.name))
    return children


def pss_bytes(pid: int) -> int:
    """Return a process's proportional set size; 0 if it has just ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def print_table(columns: dict[str, dict[str, int]]) -> None:
    """Print one row per part and one column per moment, in MB."""
    print(f"\n| MB at rest | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for part in next(iter(columns.values())):
        print(f"| {part} | {' | '.join(f'{memory.get(part, 0) / 1e6:.0f}' for memory in columns.values())} |")
    print(f"| **all** | {' | '.join(f'**{sum(memory.values()) / 1e6:.0f}**' for memory in columns.values())} |\n")
