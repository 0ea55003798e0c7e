"""Small tensors on their way to the device, and its results on their way back."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on the device. A GPU is not waited for: the copy takes its turn behind the work already queued."""
    on_host = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
    return on_host.to(device, non_blocking=True)


def read(results: Tensor) -> list[float]:  # (N,)
    """The numbers, on the host. All work queued so far is waited for: the training loop calls this once a step."""
    numbers: list[float] = results.tolist()
    return numbers
