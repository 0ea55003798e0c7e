"""Check that an export equals what was trained, by comparing the adapted model's logits with the reloaded files'.

    d(x, y) = ‖x − y‖ / ‖x‖      over all logits of a few lines of text, x from the adapter on its base model
    passes    d(adapted, loaded) ≤ max(roundings, d(adapted, base) / 4),  and everything is finite

If nothing is rounded again, the first term decides. Rounding a merged weight may lose part of what a short training
added, in any format; an export that loses more than a quarter of it is rejected.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import PreTrainedModel

from finetune_hub.engine.adapters.adapter import Adapter
from finetune_hub.engine.errors import BadConfig
from finetune_hub.engine.verify import UnfaithfulAdapter
from finetune_hub.spec.run import NumberFormat

_TEXT = """\
The quick brown fox jumps over 13 lazy dogs. "Why?" she asked; nobody knew.
def mean(values): return sum(values) / len(values)  # 3.14159
{"name": "Ada", "born": 1815, "likes": ["engines", "poetry"]}
"""
_MAX_TOKENS = 128
# Distances due to rounding alone: of the numbers in the file, or of the dtype that both models compute in.
_ROUNDINGS = {"f32": 1e-5, "f16": 4e-3, "bf16": 3e-2, "q8_0": 5e-2}
_SHARE = 0.25
_WORTH_A_WARNING = 0.1


@dataclass(frozen=True)
class ReferenceLogits:
    """An adapted model's logits, to compare with."""

    input_ids: Tensor
    logits: Tensor
    moved: float
    """Distance of the base model: the adapter's effect."""


@dataclass(frozen=True)
class Agreement:
    """How far the reloaded export is from what was trained."""

    distance: float
    tolerance: float
    moved: float
    warnings: list[str]


def sample_ids(folder: Path, vocab_size: int) -> Tensor:
    """Return the ids (1, T) of text, code and JSON from the folder's tokenizer.

    Raises:
        BadConfig: the folder has no tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise BadConfig(f"The base model folder {folder.name} has no tokenizer.json.", "Import the base model again.")
    ids = [token for token in Tokenizer.from_file(str(path)).encode(_TEXT).ids if token < vocab_size]
    return torch.tensor([ids[:_MAX_TOKENS]])


def reference_of(adapter: Adapter, input_ids: Tensor) -> ReferenceLogits:
    """Run the adapted model and the base model."""
    logits = logits_of(adapter.model, input_ids)
    with adapter.disabled():
        base = logits_of(adapter.model, input_ids)
    return ReferenceLogits(input_ids, logits, _distance(logits, base))


@torch.no_grad()
def logits_of(model: PreTrainedModel, input_ids: Tensor) -> Tensor:
    """Return (T, V) in float32 on the CPU; with virtual tokens, only the real ones."""
    logits: Tensor = model(input_ids=input_ids.to(model.device), use_cache=False).logits[0]
    return logits[-input_ids.shape[1] :].float().cpu()


def compare(
    reference: ReferenceLogits, model: PreTrainedModel, *, rounded_to: str, computed_in: torch.dtype
) -> Agreement:
    """Compare the model loaded from the exported files with the reference.

    Args:
        rounded_to: The number format of the files.
        computed_in: The dtype of both models.

    Raises:
        UnfaithfulAdapter: they differ by more than rounding explains, or are not finite.
    """
    logits = logits_of(model, reference.input_ids)
    if not bool(logits.isfinite().all() and reference.logits.isfinite().all()):
        raise UnfaithfulAdapter(
            "The exported files give logits that are not finite.", "Export in f32 or bf16, whose range is wider."
        )
    distance, moved = _distance(reference.logits, logits), reference.moved
    roundings = max(_ROUNDINGS[rounded_to], _ROUNDINGS[FORMAT_OF[computed_in]])
    exact = rounded_to == "f32" and computed_in == torch.float32
    tolerance = roundings if exact else max(roundings, _SHARE * moved)
    if distance > tolerance:
        raise UnfaithfulAdapter(
            f"The exported files' logits differ from the adapter's by {distance:.2g}, more than {tolerance:.2g}.",
            "Export in f32; if they still differ, this is a bug in the engine.",
        )
    warnings = []
    if moved == 0:
        warnings.append("The adapter has no effect: its logits are those of the base model.")
    elif distance > _WORTH_A_WARNING * moved and not exact:
        warnings.append(
            f"Rounding to {rounded_to} shifts the logits by {distance / moved:.0%} of the adapter's effect; f32 would "
            "keep all of it."
        )
    return Agreement(distance, tolerance, moved, warnings)


FORMAT_OF: dict[torch.dtype, NumberFormat] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


def _distance(expected: Tensor, logits: Tensor) -> float:
    return float((logits - expected).norm() / expected.norm())
