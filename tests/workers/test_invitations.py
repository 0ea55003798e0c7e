"""What a new machine is told: lines that a shell takes, and whether it can reach what they name."""

from __future__ import annotations

import shlex

import pytest

from finetune_hub.fleet.invitations import WayIn


@pytest.mark.parametrize(
    ("address", "is_only_here"),
    [
        ("postgresql://worker_gpu-7_1f0c:secret@db.example:5432/hub", False),
        ("postgresql://worker_gpu-7_1f0c:secret@localhost:5432/hub", True),
        ("postgresql://worker_gpu-7_1f0c:secret@/hub?host=/run/hub/postgres", True),
        ("redis://:secret@127.0.0.1:6379/0", True),
        ("redis://127.0.0.1", True),
        ("redis://localhost.example/0", False),
        ("unix:///run/hub/valkey.sock", True),
        ("file:///mnt/store", True),
        ("s3://models/hub?endpoint=https://store.example", False),
    ],
)
def test_addresses_of_the_hubs_own_machine_are_named(address: str, is_only_here: bool) -> None:
    assert WayIn("gpu-7", {"URL": address}).only_here == (["URL"] if is_only_here else [])


def test_what_is_shown_can_be_pasted_into_a_shell_and_printed_nowhere_by_accident() -> None:
    way_in = WayIn(
        "gpu-7", {"REDIS_URL": "redis://:it's; rm -rf $HOME@queue.example/0", "ARTIFACT_URL": "s3://a?b=c&d"}
    )
    *exports, command = way_in.script.splitlines()
    assert dict(shlex.split(line)[1].split("=", 1) for line in exports) == way_in.environment
    assert command == way_in.command == "finetune-hub worker --name gpu-7"
    assert "it's" not in repr(way_in)
