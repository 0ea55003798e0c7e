"""Record the golden curves, or hold this checkout's against a commit's: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.compare import ROOT, copy_commit
from tests.golden.runs import CURVES, Curve, train_curve

RECORDED = Path(__file__).with_name("curves.json")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--record", action="store_true", help=f"write {RECORDED.name}; the commit says why")
    what.add_argument("--write", type=Path, metavar="FILE", help="write the curves to a file")
    what.add_argument("--against", metavar="REV", help="exit with 1 where a curve differs from that commit's")
    options = parser.parse_args()
    if options.against is None:
        write_curves(RECORDED if options.record else options.write)
    elif different := curves_that_differ(options.against):
        sys.exit(f"These differ from {options.against}: {'; '.join(different)}.")
    else:
        print(f"All {len(CURVES)} curves are those of {options.against}, bit for bit.")


def write_curves(file: Path) -> None:
    curves: dict[str, Curve] = {}
    for name in CURVES:
        with tempfile.TemporaryDirectory() as folder:
            curves[name] = train_curve(name, Path(folder))
    lines = [f"  {json.dumps(name)}: {json.dumps(curve)}" for name, curve in curves.items()]
    file.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def curves_that_differ(rev: str) -> list[str]:
    """What both sides have with other numbers. The commit's are those of its own product and `tests.golden`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        copy_commit(ROOT, rev, folder / "theirs")
        found = []
        for tree in (ROOT, folder / "theirs"):
            written = folder / f"{len(found)}.json"
            environment = os.environ | {"PYTHONPATH": str(tree)}
            command = [sys.executable, "-m", "tests.golden", "--write", str(written)]
            subprocess.run(command, cwd=tree, env=environment, check=True)
            found.append(json.loads(written.read_text()))
    ours, theirs = found
    return [name for name in CURVES if name in theirs and ours[name] != theirs[name]]


if __name__ == "__main__":
    main()
