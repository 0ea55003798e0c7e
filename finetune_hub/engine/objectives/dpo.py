"""Direct preference optimisation: make the better of two answers to a prompt more likely than the worse one.

    Δ        = (log π(y⁺) − log π₀(y⁺)) − (log π(y⁻) − log π₀(y⁻))      sums over the answer's tokens; means for IPO
    sigmoid  = − (1 − ε) log σ(β Δ) − ε log σ(−β Δ)        hinge = max(0, 1 − β Δ)        ipo = (Δ − 1 / 2β)²
    loss     = mean over pairs of the one chosen  +  w · (− log π(y⁺) / |y⁺|)             w `sft_weight` (RPO)

π₀ is the base model, with the adapter switched off, so there is no second model. It runs on the same batch before π,
without gradients. That costs a third more compute than caching each pair's two numbers in the first epoch, which
rarely pays off in one to three epochs, and keeps resumed runs bit-identical. Both answers of all pairs are in one
sequence, packed like other rows; the prompt is computed once per answer.
Sources: Rafailov et al., arXiv:2305.18290, equation 7; Zhao et al., arXiv:2305.10425 (hinge); Azar et al.,
arXiv:2310.12036, equation 17, with means over tokens as in TRL, from its authors; Pang et al., arXiv:2404.19733 (RPO);
Mitchell, "A note on DPO with noisy preferences", 2023 (ε).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from finetune_hub.data.chat_template import ChatTemplate
from finetune_hub.data.encode import encode_pair
from finetune_hub.data.rows import PreferenceRow, Row
from finetune_hub.engine.dataset import Batch, PairRow, TokenRow
from finetune_hub.engine.errors import BadData
from finetune_hub.engine.kernels.document_attention import as_learning
from finetune_hub.engine.objectives.objective import Setting, token_losses
from finetune_hub.engine.transfer import send
from finetune_hub.spec.objectives.dpo import DpoObjective


@dataclass(frozen=True)
class Dpo:
    """The implementation of direct preference optimisation."""

    setting: Setting
    options: DpoObjective = field(default_factory=DpoObjective)

    @staticmethod
    def encode(template: ChatTemplate, row: Row, max_seq_len: int, name: str) -> TokenRow:
        if not isinstance(row, PreferenceRow):
            raise BadData(
                f"{name}: DPO learns from two answers to a prompt, and this row does not have both.",
                "Train on preference pairs, or set `objective: {type: sft}`.",
            )
        chosen, rejected = (TokenRow.of(name, encoded) for encoded in encode_pair(template, row, max_seq_len))
        return PairRow(chosen.name, chosen.input_ids, chosen.targets, chosen.truncated_tokens, rejected)

    def weight_of(self, rows: Sequence[TokenRow]) -> int:
        return len(rows)

    def documents_of(self, rows: Sequence[TokenRow]) -> Sequence[TokenRow]:
        """Return all better answers, then all worse ones."""
        pairs = [row for row in rows if isinstance(row, PairRow)]
        return [*pairs, *(pair.rejected for pair in pairs)]

    def summed(self, batch: Batch, *, learns: bool) -> Tensor:
        setting = self.setting
        assert setting.adapter is not None
        with torch.no_grad(), setting.adapter.disabled(), as_learning():
            setting.model.eval()  # type: ignore[no-untyped-call]
            reference = _answers(setting, batch)
            setting.model.train(learns)
        with as_learning():
            policy = _answers(setting, batch)
        counts = send(torch.tensor(batch.supervised), policy.device)
        rewards = self.options.beta * (policy - reference).detach()
        better, worse = rewards.chunk(2)
        losses = self._losses(policy - reference, counts)
        if self.options.sft_weight:
            losses = losses - self.options.sft_weight * (policy / counts).chunk(2)[0]
        return torch.stack([losses.sum(), (better - worse).sum(), (better > worse).float().sum()])

    def _losses(self, ratios: Tensor, counts: Tensor) -> Tensor:  # (2 P,), (2 P,) → (P,)
        beta, epsilon = self.options.beta, self.options.label_smoothing
        better, worse = (ratios / counts if self.options.loss == "ipo" else ratios).chunk(2)
        delta = better - worse
        if self.options.loss == "ipo":
            return (delta - 1 / (2 * beta)) ** 2
        if self.options.loss == "hinge":
            return torch.relu(1 - beta * delta)
        return -(1 - epsilon) * logsigmoid(beta * delta) - epsilon * logsigmoid(-beta * delta)


def _answers(setting: Setting, batch: Batch) -> Tensor:  # (2 P,)
    """Return the total log probability of each document's supervised tokens."""
    losses = token_losses(setting.model, setting.paths, batch)
    return torch.stack([-part.sum() for part in torch.split(losses, list(batch.supervised))])
