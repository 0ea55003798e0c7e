"""Shard a frozen base model that does not fit on one GPU over the ranks of a run, with FSDP2.

Every decoder layer's frozen weights are sharded over the ranks, gathered for the layer's forward and again for its
backward, and freed in between. Embeddings, last norm and head are complete on every rank, and so are the adapter's
matrices, whose gradients are summed as in any run with several ranks.

Gathering needs all ranks, so each must run the same number of forward passes.
Source: Zhao et al., "PyTorch FSDP", arXiv:2304.11277; `torch.distributed.fsdp.fully_shard`.
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.kernels.frozen_weight import is_quantised


def shard_base_model(model: PreTrainedModel, trained: Iterable[nn.Parameter], device: str, ranks: int) -> int:
    """Shard the layers over the ranks and move everything else to the device, in place.

    Args:
        trained: The adapter's parameters, which are not sharded.

    Returns:
        Bytes of the sharded weights that this rank keeps.

    Raises:
        BadConfig: the model's weights cannot be sharded.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers or any(is_quantised(parameter) for parameter in model.parameters()):
        reason = "its weights are quantised" if layers else f"{type(model).__name__} declares no layers"
        raise BadConfig(
            f"This base model cannot be sharded: {reason}.",
            "Set `runtime.shard_base_model` to false, or use method `lora` in 16 bits.",
        )
    mesh = init_device_mesh(device, (ranks,))
    whole = set(trained)
    for layer in layers:
        fully_shard(layer, mesh=mesh, ignored_params=whole)
    kept_bytes = 0
    for tensor in [*model.parameters(), *model.buffers()]:
        if isinstance(tensor, DTensor):
            kept_bytes += tensor.to_local().nbytes
        else:
            tensor.data = tensor.data.to(device)
    return kept_bytes
