"""Aliases: other names of base models, so that clients can keep the model names that they send."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.models import BaseModel, BaseModelAlias
from finetune_hub.spec.refusal import Refusal

MAX_LENGTH = 255


@transaction.atomic
def set_alias(team: Team, user: User, *, alias: str, base_model: str) -> BaseModelAlias:
    """Set an alias for the team's base model with this name. An existing alias is changed.

    Raises:
        Refusal: `forbidden`, `invalid_alias`, `alias_is_a_name`, `unknown_base_model`.
    """
    require_right(Right.SET_ALIAS, user, team)
    if not alias or len(alias) > MAX_LENGTH or not alias.isprintable() or alias != alias.strip():
        raise Refusal(
            "invalid_alias",
            f"{alias!r} is not a valid alias.",
            "Use printable characters without leading or trailing white space, such as 'gpt-4o-mini-2024-07-18'.",
            field="alias",
        )
    models = BaseModel.objects.of_team(team)
    if models.filter(name=alias).exists():
        raise Refusal(
            "alias_is_a_name",
            f"The team has a base model named {alias!r}.",
            "Choose an alias that is not the name of a base model.",
            field="alias",
            kind="conflict",
        )
    model = models.filter(name=base_model).first()
    if model is None:
        raise Refusal(
            "unknown_base_model",
            f"There is no base model named {base_model!r}.",
            "See `finetune-hub base-models list`.",
            field="base_model",
        )
    kept, _ = BaseModelAlias.objects.update_or_create(
        team=team, alias=alias, defaults={"base_model": model, "created_by": user}
    )
    return kept


def remove_alias(alias: BaseModelAlias, user: User) -> None:
    """Remove the alias. Jobs that were submitted with it do not change.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.REMOVE_ALIAS, user, alias.team)
    alias.delete()
