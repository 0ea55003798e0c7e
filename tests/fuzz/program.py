"""Fuzz one target in this process: `python -m tests.fuzz.program TARGET FOLDER [libFuzzer's options]`."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import atheris

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.offline_settings"
with atheris.instrument_imports(include=["finetune_hub"]):
    import django

    django.setup()
    from tests.fuzz.targets import TARGETS


def main() -> None:
    name, folder = sys.argv[1], Path(sys.argv[2])
    target = TARGETS[name]
    for seed in target.seeds:
        (folder / hashlib.sha256(seed).hexdigest()).write_bytes(seed)

    def test_one_input(data: bytes) -> None:
        target.parse(data)

    atheris.Setup([sys.argv[0], *sys.argv[3:], str(folder)], test_one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
