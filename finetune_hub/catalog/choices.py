"""Look up the base model and datasets that a spec names, with a hint at similar names."""

from __future__ import annotations

import difflib

from finetune_hub.accounts.models import Team
from finetune_hub.catalog.models import BaseModel, BaseModelState, DatasetVersion
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import DatasetChoice


def find_base_model(team: Team, name: str) -> BaseModel:
    """Return the team's base model with this name or alias, which must be ready.

    Raises:
        Refusal: `unknown_base_model`, `base_model_not_ready`.
    """
    base_model = BaseModel.objects.of_team(team).called(name)
    if base_model is None:
        names = list(BaseModel.objects.of_team(team).order_by("name").values_list("name", flat=True))
        raise Refusal(
            "unknown_base_model",
            f"There is no base model named {name!r}.",
            did_you_mean(name, names) or "Import one first: `finetune-hub base-models import smollm2-135m-instruct`.",
            field="base_model",
        )
    if base_model.state != BaseModelState.READY:
        raise Refusal(
            "base_model_not_ready",
            f"The base model {name!r} is not ready: {base_model.state}.",
            "Wait for its import to end."
            if base_model.state == BaseModelState.IMPORTING
            else "Its import failed. See the job, then import it again.",
            field="base_model",
            kind="conflict",
        )
    return base_model


def find_dataset_version(team: Team, choice: DatasetChoice) -> DatasetVersion:
    """Return the chosen version of the team's dataset, by default the newest.

    Raises:
        Refusal: `unknown_dataset`, `path_not_allowed`.
    """
    if choice.path is not None:
        raise Refusal(
            "path_not_allowed",
            f"The hub does not read files of its machine: {choice.path!r}.",
            "Upload the file (`finetune-hub datasets push FILE`), then use its dataset's `name`.",
            field="datasets",
        )
    versions = DatasetVersion.objects.alive().filter(dataset__team=team).select_related("dataset")
    named = versions.filter(dataset__name=choice.name)
    found = (named.filter(number=choice.version) if choice.version else named).order_by("-number").first()
    if found:
        return found
    if named:
        raise Refusal(
            "unknown_dataset",
            f"The dataset {choice.name!r} has no version {choice.version}.",
            f"Its newest version is {max(version.number for version in named)}.",
            field="datasets",
        )
    names = list(versions.order_by("dataset__name").values_list("dataset__name", flat=True).distinct())
    raise Refusal(
        "unknown_dataset",
        f"There is no dataset named {choice.name!r}.",
        did_you_mean(str(choice.name), names) or "Upload one first: `finetune-hub datasets push FILE`.",
        field="datasets",
    )


def did_you_mean(name: str, names: list[str]) -> str:
    """Return a hint at similar names; empty if there are no names."""
    nearest = difflib.get_close_matches(name, names, n=3) or names[:3]
    return f"Did you mean {' or '.join(map(repr, nearest))}?" if nearest else ""
