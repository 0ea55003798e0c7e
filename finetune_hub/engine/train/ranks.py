"""The processes that share a run: each computes some of a step's micro-batches, and gradients are summed.

The loss is divided by the supervised tokens of the whole step before the backward pass, so a plain sum over ranks is
the exact gradient, however rows are distributed. Only rank 0 writes events, checkpoints and the adapter.

A run with `runtime.gpus` above 1 starts its other ranks itself; under `torchrun`, which sets the same variables, it
joins the existing ones.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self, TypeVar

import torch
from torch import Tensor, distributed

Item = TypeVar("Item")


@dataclass(frozen=True)
class Ranks:
    """This process's rank among `count`."""

    rank: int = 0
    count: int = 1

    @classmethod
    def join(cls, device: str) -> Self:
        """Join the other ranks that the environment describes, if any."""
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls()
        rank = int(os.environ["RANK"])
        if device == "cuda":
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", rank)))
        distributed.init_process_group("nccl" if device == "cuda" else "gloo", rank=rank, world_size=count)
        return cls(rank, count)

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def share(self, items: Sequence[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield the items that this rank computes, and whether each counts.

        Every rank gets the same number, because ranks that share a base model's weights gather them together: if there
        are too few items, the last one is repeated and does not count.
        """
        for start in range(0, len(items), self.count):
            index = start + self.rank
            yield (items[index], True) if index < len(items) else (items[-1], False)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over all ranks, in a single reduction."""
        if self.count == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        distributed.all_reduce(flat)
        for tensor, part in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def any(self, flag: bool, device: str) -> bool:
        """Return whether the flag is true on any rank. With one rank, it does not wait for the device."""
        if self.count == 1:
            return flag
        flags = torch.tensor([float(flag)], device=device)
        self.add_up([flags])
        return bool(flags.item())

    def choice_of_first(self, choice: Item, choices: Sequence[Item], device: str) -> Item:
        """Return the first rank's choice, as ranks that measure independently may disagree."""
        if self.count == 1:
            return choice
        index = torch.tensor([choices.index(choice) if self.is_first else 0], device=device)
        self.add_up([index])
        return choices[int(index.item())]

    def gather(self, tensor: Tensor, device: str) -> list[Tensor]:
        """Return the tensors of all ranks, in order, on the CPU."""
        if self.count == 1:
            return [tensor]
        own = tensor.to(device)
        gathered = [torch.empty_like(own) for _ in range(self.count)]
        distributed.all_gather(gathered, own)
        return [part.cpu() for part in gathered]

    def leave(self) -> None:
        if self.count > 1:
            distributed.destroy_process_group()


def start_others(count: int) -> list[subprocess.Popen[bytes]]:
    """Start ranks 1 to `count - 1` with this process's command line, and make this process rank 0."""
    if count == 1 or "RANK" in os.environ:
        return []
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(count)}
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0"}
    command = [sys.executable, "-m", "finetune_hub.engine", *sys.argv[1:]]
    return [
        subprocess.Popen(command, env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(1, count)
    ]
