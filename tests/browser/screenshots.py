"""`make screenshots`, or `make screenshots ARGS=FOLDER`: pictures of every page; into screenshots/ if none is named.

`make screenshots ARGS=--docs` draws those of README.md and the guides anew, in docs/images.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

import pytest

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.browser.screenshots", description=__doc__)
    parser.add_argument("folder", nargs="?", help="where the pictures go; screenshots/ if none is named")
    parser.add_argument("--docs", action="store_true", help="draw those of README.md and the guides, in docs/images")
    options = parser.parse_args()
    if options.folder:
        os.environ["SCREENSHOTS"] = options.folder
    chosen = "test_take_pictures_of_the_docs" if options.docs else "test_take_screenshots"
    sys.exit(pytest.main(["-q", str(Path(__file__).with_name("take_screenshots.py")), "-k", chosen]))
