"""A team's token of the Hugging Face hub, for gated and private repositories: set, used, never shown again."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import HubToken, Team, User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.accounts.sealing import Unreadable, seal, unseal
from finetune_hub.spec.refusal import Refusal

MAX_LENGTH = 500
SUBJECT = "the hub token"


@transaction.atomic
def set_hub_token(team: Team, token: str, *, actor: User) -> HubToken:
    """Keep the token, in place of the one before.

    Raises:
        Refusal: `forbidden`, `invalid_hub_token`.
    """
    require_right(Right.SET_HUB_TOKEN, actor, team)
    token = token.strip()
    if not token or len(token) > MAX_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise Refusal(
            "invalid_hub_token",
            "This cannot be a token of the hub.",
            "Copy one with the role `read` from https://huggingface.co/settings/tokens; it begins with `hf_`.",
            field="token",
        )
    kept, _ = HubToken.objects.update_or_create(team=team, defaults={"sealed": seal(token), "set_by": actor})
    record(Verb.HUB_TOKEN_SET, SUBJECT, team=team, actor=actor)
    return kept


@transaction.atomic
def remove_hub_token(team: Team, *, actor: User) -> None:
    """Forget the token; none is none.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.REMOVE_HUB_TOKEN, actor, team)
    deleted, _ = HubToken.objects.filter(team=team).delete()
    if deleted:
        record(Verb.HUB_TOKEN_REMOVED, SUBJECT, team=team, actor=actor)


def open_hub_token(team: Team) -> str | None:
    """The token itself, for the process that fetches; None: the team has none.

    Raises:
        Refusal: `hub_token_unreadable`.
    """
    kept = HubToken.objects.filter(team=team).first()
    try:
        return unseal(kept.sealed) if kept else None
    except Unreadable as error:
        raise Refusal(
            "hub_token_unreadable",
            "The team's hub token was kept under another SECRET_KEY and cannot be read.",
            "Have an admin of the team set it again, on the Team page or with `finetune-hub hub-token set`.",
        ) from error
