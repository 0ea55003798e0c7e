"""A text for a browser names no folder of a machine, and is otherwise what it was."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import pytest

from finetune_hub.machine.paths_in_text import without_paths


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "[Errno 28] No space left on device: '/srv/hub/work/gpu-7/12-ab/output/x.bin'",
            "[Errno 28] No space left on device: '…/output/x.bin'",
        ),
        ("'/home/alice smith/hub/a b.bin' -> '/tmp/c'", "'…/hub/a b.bin' -> '…/c'"),
        (
            '  File "/opt/venv/lib/python3.11/site-packages/torch/nn/functional.py", line 9, in f',
            '  File "site-packages/torch/nn/functional.py", line 9, in f',
        ),
        ("It does not respond: Error 2 connecting to unix socket: /root/.fh/valkey/valkey.sock.", None),
        ("Check file:///root/.finetune-hub/artifacts.", "Check …/artifacts."),
        ("/home/alice/x and /Users/alice", "…/x and …/alice"),
        ("(/var/lib/hub/x.json:12)", "(…/hub/x.json:12)"),
        ("see /data/models/tiny, and /mnt/c", "see …/tiny, and …/c"),
    ],
)
def test_a_path_is_cut_to_its_last_parts(text: str, shown: str | None) -> None:
    found = without_paths(text)
    assert shown is None or found == shown
    assert not any(folder in found for folder in ("/srv", "/home", "/opt", "/root", "/var", "/mnt", "/data"))


@pytest.mark.parametrize("folder", [Path.home(), Path(sys.prefix), Path(tempfile.gettempdir()), Path.cwd()])
def test_folders_of_the_process_itself_are_cut_wherever_they_are(folder: Path) -> None:
    assert str(folder) not in without_paths(f"cannot read {folder}/a/b/c.json")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "POST https://hub.example/home/x and s3://bucket/var/x failed with 404.",
        "Use and/or; 3/4 of 1/2 MB/s; application/json; owner/name@revision; ./data/rows.jsonl; ../tmp/x",
        "`/v1/models` and /think and </answer> and ~/.finetune-hub",
        "Checkpoint jobs/ftjob-1/1/checkpoints/step-3 is at home/x.",
        "The root is /, and /tmp alone names nothing.",
    ],
)
def test_what_is_no_path_of_a_disk_stays(text: str) -> None:
    assert without_paths(text) == text


def test_a_long_log_takes_no_time() -> None:
    log = ("/" * 2000 + "'/tmp/" + "a" * 2000 + "\n" + "/home" * 500) * 10
    assert len(without_paths(log)) <= len(log)
