"""Transfer of small tensors to the device and of results back."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Copy the tensor to the device. On a GPU the copy is queued without waiting."""
    on_host = tensor.pin_memory() if torch.device(device).type == "cuda" else tensor
    return on_host.to(device, non_blocking=True)


def read(results: Tensor) -> list[float]:  # (N,)
    """Return the numbers on the host. This waits for all queued work; the training loop calls it once per step."""
    numbers: list[float] = results.tolist()
    return numbers
