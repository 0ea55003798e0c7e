"""`make screenshots`, or `make screenshots ARGS=FOLDER`: pictures of every page; into screenshots/ if none is named."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.environ["SCREENSHOTS"] = sys.argv[1]
    sys.exit(pytest.main(["-q", str(Path(__file__).with_name("take_screenshots.py"))]))
