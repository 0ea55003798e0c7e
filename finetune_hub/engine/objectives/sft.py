"""Supervised fine-tuning: the cross-entropy of the supervised tokens.

loss = − Σ log p(token | tokens before it in its row) / N      N supervised tokens of the optimizer step
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.encode import encode_row
from finetune_hub.data.rows import Row
from finetune_hub.engine.dataset import Batch, TokenRow
from finetune_hub.engine.objectives.objective import Setting, token_losses
from finetune_hub.spec.objectives.sft import SftObjective


@dataclass(frozen=True)
class Sft:
    """The implementation of supervised fine-tuning."""

    setting: Setting
    options: SftObjective = field(default_factory=SftObjective)

    @staticmethod
    def encode(template: ChatTemplate, row: Row, max_seq_len: int, name: str) -> TokenRow:
        return TokenRow.of(name, encode_row(template, row, max_seq_len))

    def weight_of(self, rows: Sequence[TokenRow]) -> int:
        return sum(row.supervised_tokens for row in rows)

    def documents_of(self, rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
        return rows

    def summed(self, batch: Batch, *, learns: bool) -> Tensor:
        setting = self.setting
        smoothing = setting.label_smoothing if learns else 0.0
        return token_losses(setting.model, setting.paths, batch, smoothing).sum()[None]
