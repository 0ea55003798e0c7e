"""What a training makes smaller, each objective with its own settings; `type` tells them apart."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, ModelWrapValidatorHandler, WrapValidator

from finetune_hub.spec.part import Part


class SftObjective(Part):
    """Supervised fine-tuning: predict the supervised tokens of each conversation."""

    measures: ClassVar[tuple[str, ...]] = ()
    """Names in `spec.measures` of what is told of a step beside the loss."""
    loss_is: ClassVar[str] = "mean over the supervised tokens, in nats"

    type: Literal["sft"] = "sft"
    supervise: Literal["assistant"] = Field(
        "assistant", description="Only the assistant's turns, their end token included."
    )


class DpoObjective(Part):
    """Direct preference optimisation (arXiv:2305.18290): make the better of two answers likelier than the worse one."""

    measures: ClassVar[tuple[str, ...]] = ("reward_margin", "reward_accuracy")
    loss_is: ClassVar[str] = "mean over the pairs, in nats"

    type: Literal["dpo"] = "dpo"
    loss: Literal["sigmoid", "hinge", "ipo"] = Field(
        "sigmoid",
        description="On the margin between both answers: DPO's own, SLiC's hinge (arXiv:2305.10425), or IPO's square "
        "(arXiv:2310.12036), which takes means over tokens.",
    )
    beta: float = Field(
        0.1, gt=0, le=10, description="How dear it is to move away from the base model; smaller moves further."
    )
    label_smoothing: float = Field(
        0.0, ge=0, lt=0.5, description="Share of pairs taken to be labelled the wrong way round; `sigmoid` only."
    )
    sft_weight: float = Field(
        0.0,
        ge=0,
        le=100,
        description="Adds so much of the better answer's cross entropy (RPO, arXiv:2404.19733), which keeps it likely.",
    )


OBJECTIVES: dict[str, type[SftObjective | DpoObjective]] = {"sft": SftObjective, "dpo": DpoObjective}


def objective_type(document: Any) -> type[SftObjective | DpoObjective] | None:
    """The model for a document's `type`, supervised fine-tuning when it has none; None: there is no such objective."""
    name = document.get("type", "sft") if isinstance(document, dict) else getattr(document, "type", None)
    return OBJECTIVES.get(name) if isinstance(name, str) else None


def _choose(value: Any, parse: ModelWrapValidatorHandler[Any]) -> Any:
    """Errors say `objective.beta`; a plain union would say `objective.dpo.beta`, which no recipe has."""
    chosen = objective_type(value)
    return parse(value) if chosen is None else chosen.model_validate(value)


Objective = Annotated[SftObjective | DpoObjective, Field(discriminator="type"), WrapValidator(_choose)]
