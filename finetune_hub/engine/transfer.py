"""Small tensors on their way to the device."""

from __future__ import annotations

import torch
from torch import Tensor


def send(tensor: Tensor, device: str | torch.device) -> Tensor:
    """The tensor on the device. A GPU is not waited for: the copy takes its turn behind the work already queued."""
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
