"""DoRA: LoRA for the direction of each output's weights, and one trained number for their magnitude.

    y = m ⊙ (x Wᵀ + s · x̃ Aᵀ Bᵀ) / n + b            n = ‖W + s B A‖ per row, constant in the gradient

n is computed without B A:  n² = ‖W‖² + 2 s (W Aᵀ ⊙ B) 1 + s² (B A Aᵀ ⊙ B) 1, and ‖W‖² is constant.
m starts at ‖W‖ and B at zero, so a new adapter changes nothing.
Shape letters:  T tokens,  I in_features,  O out_features,  R rank.
Source: Liu et al., "DoRA", arXiv:2402.09353, sections 4.1 and 4.3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from finetune_hub.engine.adapters.lora_layers import LoraLinear
from finetune_hub.engine.kernels.frozen_weight import dense, dtype_of
from finetune_hub.engine.kernels.lora_linear import lora_linear
from finetune_hub.engine.kernels.products import product_dtype
from finetune_hub.spec.methods.low_rank import LowRankMethod


class DoraLinear(LoraLinear):
    """A frozen linear layer with separately trained directions and magnitudes of its rows."""

    def __init__(self, linear: Any, method: LowRankMethod, path: str, generator: torch.Generator) -> None:
        super().__init__(linear, method, path, generator)
        weight = dense(self.base_weight(), torch.float32).float()
        self.base_norm_squared = weight.square().sum(dim=1)  # (O,)
        self.magnitude = nn.Parameter(self.base_norm_squared.sqrt())  # (O,), float32

    def forward(self, x: Tensor) -> Tensor:  # (…, I) -> (…, O)
        if not self.enabled:
            return super().forward(x)
        direction = lora_linear(x, self.drop(x), self.base_weight(), None, self.lora_a, self.lora_b, self.scale)
        y = direction * (self.magnitude / self.row_norms()).to(x.dtype)
        return y if self.bias is None else y + self.bias

    @torch.no_grad()
    def row_norms(self) -> Tensor:
        """Return ‖W + s B A‖ per row: (O,), in float32."""
        weight = dense(self.base_weight(), dtype_of(self.base_weight()))
        weight = weight.to(product_dtype(weight))
        projected = (weight @ self.lora_a.t().to(weight.dtype)).float()  # (O, R)
        cross = (projected * self.lora_b).sum(dim=1)
        gram = self.lora_a @ self.lora_a.t()  # (R, R)
        update = ((self.lora_b @ gram) * self.lora_b).sum(dim=1)
        return (self.base_norm_squared + 2 * self.scale * cross + self.scale**2 * update).clamp_min(0).sqrt()

    @torch.no_grad()
    def adapted_weight(self, weight: Tensor) -> Tensor:
        directed = super().adapted_weight(weight)
        return directed * (self.magnitude / self.row_norms())[:, None]
