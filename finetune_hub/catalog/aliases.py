"""Aliases: other names of base models, so that a pipeline keeps the model names that it sends."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.models import BaseModel, BaseModelAlias
from finetune_hub.spec.refusal import Refusal

MAX_LENGTH = 255


@transaction.atomic
def set_alias(team: Team, user: User, *, alias: str, base_model: str) -> BaseModelAlias:
    """Let the alias stand for the team's base model of this name; an alias that is there is given to it.

    Raises:
        Refusal: `forbidden`, `invalid_alias`, `alias_is_a_name`, `unknown_base_model`.
    """
    require_right(Right.SET_ALIAS, user, team)
    if not alias or len(alias) > MAX_LENGTH or not alias.isprintable() or alias != alias.strip():
        raise Refusal(
            "invalid_alias",
            f"{alias!r} cannot be an alias.",
            "Use printable characters without white space around them, such as 'gpt-4o-mini-2024-07-18'.",
            field="alias",
        )
    models = BaseModel.objects.of_team(team)
    if models.filter(name=alias).exists():
        raise Refusal(
            "alias_is_a_name",
            f"A base model of the team is named {alias!r} itself.",
            "Choose an alias that no base model is named.",
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
    """Let the alias stand for nothing. Jobs that were submitted under it stay what they are.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.REMOVE_ALIAS, user, alias.team)
    alias.delete()
