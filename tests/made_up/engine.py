"""The tensors of the method, its spelling, and what the objective computes."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from finetune_hub.engine.dataset import Batch
from finetune_hub.engine.methods import ENGINE_METHODS, EngineMethod
from finetune_hub.engine.objectives.objective import token_losses
from finetune_hub.engine.objectives.registry import OBJECTIVES
from finetune_hub.engine.objectives.sft import Sft
from tests.made_up.spec import SteerMethod


class SteerAdapter:
    """The vector on one model, (H,) in float32; it starts at zero."""

    def __init__(self, model: PreTrainedModel, method: SteerMethod) -> None:
        self.model, self.method = model, method
        embeddings = model.get_input_embeddings()
        assert isinstance(embeddings, nn.Embedding)
        self.vector = nn.Parameter(torch.zeros(embeddings.embedding_dim, device=embeddings.weight.device))
        self.enabled = True
        self.install()

    @classmethod
    def attach(cls, model: PreTrainedModel, method: SteerMethod, *, seed: int = 0) -> SteerAdapter:
        model.requires_grad_(False)
        return cls(model, method)

    def install(self) -> None:
        self._hook = self.model.get_input_embeddings().register_forward_hook(self._steer)

    def remove(self) -> None:
        self._hook.remove()

    def parameters(self) -> dict[str, nn.Parameter]:
        return {"vector": self.vector}

    def state(self) -> dict[str, Tensor]:
        return {**self.parameters()}

    def learning_rate_factor(self, name: str) -> float:
        return 1.0

    @contextmanager
    def disabled(self) -> Iterator[None]:
        self.enabled = False
        try:
            yield
        finally:
            self.enabled = True

    def _steer(self, _module: Any, _inputs: Any, embedded: Tensor) -> Tensor:
        return embedded + (self.method.strength * self.vector).to(embedded.dtype) if self.enabled else embedded


class SteerSpelling:
    """PEFT has no such method: its files say so by their type."""

    PEFT_TYPE = "STEER"

    def tensors_of(self, adapter: SteerAdapter) -> dict[str, Tensor]:
        return {"vector": adapter.vector}

    def config_of(self, adapter: SteerAdapter) -> dict[str, Any]:
        return {"peft_type": self.PEFT_TYPE, "strength": adapter.method.strength}

    def read_method(self, config: dict[str, Any], _tensors: dict[str, Tensor]) -> SteerMethod:
        return SteerMethod(strength=config["strength"])

    @torch.no_grad()
    def load(self, adapter: SteerAdapter, tensors: dict[str, Tensor]) -> None:
        adapter.vector.copy_(tensors["vector"])


class Focal(Sft):
    """Like supervised fine-tuning, with less weight on what is sure."""

    options: Any

    def summed(self, batch: Batch, *, learns: bool) -> Tensor:
        losses = token_losses(self.setting.model, self.setting.paths, batch)
        unsure = -torch.expm1(-losses.detach())
        sure = (losses.detach() < math.log(2)).float()
        return torch.stack([(unsure**self.options.gamma * losses).sum(), sure.sum()])


ENGINE_METHODS["steer"] = EngineMethod(SteerAdapter, SteerSpelling())
OBJECTIVES["focal"] = Focal
