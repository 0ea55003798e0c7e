"""With equal data, equal start and float32, our losses are PEFT's, step by step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.dataset import TokenRow
from finetune_hub.engine.model import load_base_model, prove_fast_paths
from finetune_hub.engine.objectives.objective import Setting, backward
from finetune_hub.engine.objectives.sft import Sft
from finetune_hub.engine.peft import peft_format

# PEFT 0.21 asks transformers for attributes and arguments that transformers 5.23 and 5.24 have renamed.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")

STEPS = 50
MakePair = Callable[[Any], tuple[Any, Any, Adapter]]
LENGTHS = [(9, 14, 5), (21, 6, 8), (12, 12, 3)]


def rows_of(step: int) -> list[TokenRow]:
    """Ragged rows of a fixed text that can be learned: each token follows from the one before."""
    rows = []
    for number, length in enumerate(LENGTHS[step % len(LENGTHS)]):
        ids = (torch.arange(length, dtype=torch.int32) * (7 + number) + step % 5) % 256
        rows.append(TokenRow(f"{step}.{number}", ids, torch.arange(1, length - 1, dtype=torch.int32), 0))
    return rows


def our_losses(model: Any, adapter: Adapter, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    paths = prove_fast_paths(model)
    assert paths.packed
    model.train()
    losses = []
    for step in range(steps):
        rows = rows_of(step)
        losses.append(float(backward(Sft(Setting(model, paths)), rows, sum(len(row.targets) for row in rows))[0]))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def peft_losses(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """PEFT's model on each row alone, with its own logits and torch's cross entropy."""
    model.train()
    losses = []
    for step in range(steps):
        loss, count = torch.zeros(()), 0
        for row in rows_of(step):
            ids, targets = row.input_ids.long(), row.targets.long()
            logits = model(input_ids=ids[None], use_cache=False).logits[0][-len(ids) :]
            loss = loss + F.cross_entropy(logits[targets], ids[targets + 1], reduction="sum")
            count += len(targets)
        (loss / count).backward()
        losses.append(float(loss.detach() / count))
        optimizer.step()
        optimizer.zero_grad()
    return losses


def trainable(model: torch.nn.Module) -> list[torch.nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


@pytest.fixture
def peft_and_ours(base_model_dir: Path, tmp_path: Path) -> MakePair:
    """A fresh adapter of PEFT's, and ours read from its files."""

    def make(config: Any) -> tuple[Any, Any, Adapter]:
        from peft import get_peft_model

        torch.manual_seed(0)
        theirs = get_peft_model(load_base_model(base_model_dir, dtype=torch.float32, device="cpu"), config)
        theirs.save_pretrained(tmp_path, save_embedding_layers=False)
        ours = load_base_model(base_model_dir, dtype=torch.float32, device="cpu")
        return theirs, ours, peft_format.attach_adapter(ours, tmp_path)

    return make


@pytest.mark.parametrize("options", [{}, {"use_rslora": True}, {"use_dora": True}], ids=["lora", "rslora", "dora"])
def test_lora_trains_as_pefts(peft_and_ours: MakePair, options: dict[str, Any]) -> None:
    from peft import LoraConfig

    config = LoraConfig(r=4, lora_alpha=8, target_modules="all-linear", task_type="CAUSAL_LM", **options)
    theirs, ours, adapter = peft_and_ours(config)
    expected = peft_losses(theirs, torch.optim.AdamW(trainable(theirs), lr=1e-3, weight_decay=0.0), STEPS)
    losses = our_losses(ours, adapter, torch.optim.AdamW(trainable(ours), lr=1e-3, weight_decay=0.0), STEPS)

    assert losses[-1] < losses[0] - 0.5
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4)


def test_prompt_tuning_trains_as_pefts(peft_and_ours: MakePair) -> None:
    from peft import PromptTuningConfig

    theirs, ours, adapter = peft_and_ours(PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    trained = list(adapter.parameters().values())
    expected = peft_losses(theirs, torch.optim.AdamW(trainable(theirs), lr=1e-3, weight_decay=0.0), STEPS)
    losses = our_losses(ours, adapter, torch.optim.AdamW(trained, lr=1e-3, weight_decay=0.0), STEPS)
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4)


def test_prefix_tuning_has_pefts_gradients_and_losses(peft_and_ours: MakePair) -> None:
    """Under AdamW two prefixes part after a few steps, whatever one does: one state, then plain gradient descent."""
    from peft import PrefixTuningConfig

    theirs, ours, adapter = peft_and_ours(PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4))
    (our_prefix,), (their_prefix,) = adapter.parameters().values(), trainable(theirs)
    gradients: list[torch.Tensor] = []

    def sgd(prefix: torch.nn.Parameter) -> torch.optim.Optimizer:
        optimizer = torch.optim.SGD([prefix], lr=1e-3)
        optimizer.register_step_pre_hook(lambda *_: gradients.append(prefix.grad.clone()))
        return optimizer

    expected, losses = peft_losses(theirs, sgd(their_prefix), 8), our_losses(ours, adapter, sgd(our_prefix), 8)

    assert len(gradients) == 16
    assert (gradients[8] - gradients[0]).norm() <= 1e-3 * gradients[0].norm()
    torch.testing.assert_close(losses, expected, rtol=0, atol=1e-4)
