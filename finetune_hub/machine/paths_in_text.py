"""Take the paths of a machine's disk out of a text that people in a browser read.

    [Errno 28] No space left on device: '/srv/hub/work/gpu-7/12-ab/output/x.bin'   →   … device: '…/output/x.bin'
    File "/opt/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 9   →   File "site-packages/torch/…"

The last two parts stay, so that people know which file is meant, but never the first two, which may name a user; of a
Python package, all that is inside of it stays.
Whoever runs the machine reads the whole text in the log of the process that met the failure.
"""

from __future__ import annotations

import re
import sys
import tempfile
from pathlib import Path

# First folders of Linux and macOS. Others, such as /v1/models or /think, are not of a disk.
_TOP = (
    "Applications|Library|Users|Volumes|app|bin|boot|content|data|dev|etc|home|lib|lib64|media|mnt|nix|opt|private|proc|"
    "root|run|sbin|scratch|snap|srv|sys|tmp|usr|var|workdir|workspace"
)
_PACKAGES = ("site-packages", "dist-packages")
_PARTS_KEPT, _PARTS_HIDDEN = 2, 2


def without_paths(text: str) -> str:
    """Return the text with its absolute paths cut to their last parts. Other texts stay as they are."""
    return _paths().sub(lambda found: _cut(found[0]), text) if "/" in text else text


def _paths() -> re.Pattern[str]:
    own = {str(Path(folder)) for folder in (Path.home(), sys.prefix, tempfile.gettempdir(), Path.cwd())} - {"/"}
    roots = "|".join([*map(re.escape, sorted(own, key=len, reverse=True)), f"/(?:{_TOP})(?=/)"])
    start = rf"(?:file://)?(?:{roots})"
    # Between quotes a path may have spaces; elsewhere it ends with a space or a mark.
    return re.compile(
        rf"""(?<=['"`]){start}(?=/)[^'"`\n]*(?=['"`])|(?<![\w./:~…-]){start}(?=/)[^\s'"`,;()<>\[\]{{}}|]*"""
    )


def _cut(path: str) -> str:
    path = path.removeprefix("file://")
    stripped = path.rstrip("/.:")
    ending = path[len(stripped) :].lstrip("/")
    parts = stripped.split("/")
    for packages in _PACKAGES:
        if packages in parts:
            return "/".join(parts[parts.index(packages) :]) + ending
    first = min(len(parts) - 1, max(1 + _PARTS_HIDDEN, len(parts) - _PARTS_KEPT))
    return "/".join(["…", *parts[first:]]) + ending
