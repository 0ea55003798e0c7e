"""Direct preference optimisation: make the better of two answers more likely than the worse one."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from finetune_hub.spec.objectives.objective import Objective, RecipeName
from finetune_hub.spec.row_kinds import RowKind


class DpoObjective(Objective):
    """Direct preference optimisation (arXiv:2305.18290): make the better of two answers more likely than the worse."""

    measures: ClassVar[tuple[str, ...]] = ("reward_margin", "reward_accuracy")
    loss_is: ClassVar[str] = "mean over the pairs, in nats"
    row_kinds: ClassVar[frozenset[RowKind]] = frozenset({RowKind.PREFERENCE})
    learns_from: ClassVar[str] = "two answers to a prompt"
    own_row_kind: ClassVar[RowKind] = RowKind.PREFERENCE
    own_rows_are: ClassVar[str] = "pairs of a better and a worse answer"
    documents_of_row: ClassVar[int] = 2
    reference_passes: ClassVar[int] = 1
    learning_rate_share: ClassVar[float] = 1 / 50
    learning_rate_reason: ClassVar[str] = "1/50 of supervised fine-tuning's, as DPO overshoots"
    recipe_names: ClassVar[dict[str, RecipeName]] = {"dpo": RecipeName({}), "ipo": RecipeName({"loss": "ipo"})}
    recipe_options: ClassVar[dict[str, dict[str, str]]] = {
        "Axolotl": {
            "rl_beta": "beta",
            "dpo_beta": "beta",
            "dpo_label_smoothing": "label_smoothing",
            "dpo_loss_type": "loss",
            "rpo_alpha": "sft_weight",
        },
        "LLaMA-Factory": {
            "pref_beta": "beta",
            "pref_loss": "loss",
            "pref_ftx": "sft_weight",
            "dpo_label_smoothing": "label_smoothing",
        },
        "LLaMA-Factory v1": {"pref_loss": "loss"},
    }
    first_fields: ClassVar[tuple[str, ...]] = ("beta",)

    type: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid",
        description="Loss on the margin between the answers: DPO's own, SLiC's hinge (arXiv:2305.10425), or IPO's "
        "square (arXiv:2310.12036), which averages over tokens.",
    )
    beta: float = Field(
        0.1, gt=0, le=10, description="Penalty for moving away from the base model; smaller values move further."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Assumed share of pairs labelled the wrong way round; `sigmoid` only."
    )
    sft_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Weight of the better answer's added cross-entropy (RPO, arXiv:2404.19733), which keeps it likely.",
    )
