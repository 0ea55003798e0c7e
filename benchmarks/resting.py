"""Memory of a hub at rest, part by part: proportional set size, in which a page that n processes share counts 1/n each.

Linux only. Other programs that have the same files open (a second hub of the same environment) share their pages too,
and make the figure smaller: measure beside none.
"""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

UP = "up"


def memory_of_hub(status: dict[str, Any]) -> dict[str, int]:
    """Bytes of each part with all of its descendants; `up` has what belongs to no part: itself and its guard.

    Args:
        status: What `finetune-hub status --json` says.
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
    """The children of every process that has some."""
    children = defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except OSError:  # It has just ended.
            continue
        children[int(fields[1])].append(int(file.parent.name))
    return children


def pss_bytes(pid: int) -> int:
    """0 for a process that has just ended."""
    try:
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    found = re.search(r"^Pss: +(\d+) kB$", rollup, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


def print_table(columns: dict[str, dict[str, int]]) -> None:
    """One row a part, one column a moment, in MB."""
    print(f"\n| MB at rest | {' | '.join(columns)} |\n|---|{'---|' * len(columns)}")
    for part in next(iter(columns.values())):
        print(f"| {part} | {' | '.join(f'{memory.get(part, 0) / 1e6:.0f}' for memory in columns.values())} |")
    print(f"| **all** | {' | '.join(f'**{sum(memory.values()) / 1e6:.0f}**' for memory in columns.values())} |\n")
