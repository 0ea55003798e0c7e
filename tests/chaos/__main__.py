"""Many faults, and a report.

python -m tests.chaos --faults 300 --seed 7 --report docs/chaos.md
"""

from __future__ import annotations

import argparse
import logging
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from tests.chaos.program import Program

HEAD = """# Chaos

`tests/chaos` submits trainings and lets parts of a hub die at random moments, by a seed. Then it looks for what must
never be: a job that has not ended, an adapter too many or too few, two adapters of one recipe that differ in a bit, a
file that is not what its manifest says, a step missing on a curve, a write without a lease, a process or folder left.

    {command}

{date}, {cores} cores, {machine}.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--faults", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--report", type=Path, help="A Markdown file; standard output otherwise.")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    with tempfile.TemporaryDirectory(prefix="chaos-") as folder:
        outcome = Program(Path(folder), seed=options.seed, count=options.faults).run()
    head = HEAD.format(
        command=f"python -m tests.chaos --faults {options.faults} --seed {options.seed}",
        date=f"{datetime.now(UTC):%-d %B %Y}",
        cores=os.cpu_count(),
        machine=platform.machine(),
    )
    report = head + outcome.table() + "\n"
    if options.report:
        options.report.write_text(report, encoding="utf-8")
    print(report)
    return 1 if outcome.findings else 0


if __name__ == "__main__":
    sys.exit(main())
