"""`make screenshots`, or `make screenshots ARGS=FOLDER`: pictures of every page; into screenshots/ if none is named.

`make screenshots ARGS=--docs` draws those of README.md and the guides anew, in docs/images.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    chosen = "test_take_screenshots"
    if sys.argv[1:] == ["--docs"]:
        chosen = "test_take_pictures_of_the_docs"
    elif len(sys.argv) > 1:
        os.environ["SCREENSHOTS"] = sys.argv[1]
    sys.exit(pytest.main(["-q", str(Path(__file__).with_name("take_screenshots.py")), "-k", chosen]))
