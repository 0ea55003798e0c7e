"""A team's Hugging Face token, for gated and private repositories. It is never shown again."""

from __future__ import annotations

from django.db import transaction

from finetune_hub.accounts.actions import record
from finetune_hub.accounts.models import HuggingFaceToken, Team, User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.accounts.sealing import Unreadable, seal, unseal
from finetune_hub.spec.refusal import Refusal

MAX_LENGTH = 500
SUBJECT = "the Hugging Face token"


@transaction.atomic
def set_huggingface_token(team: Team, token: str, *, actor: User) -> HuggingFaceToken:
    """Set or replace the token.

    Raises:
        Refusal: `forbidden`, `invalid_huggingface_token`.
    """
    require_right(Right.SET_HUGGINGFACE_TOKEN, actor, team)
    token = token.strip()
    if not token or len(token) > MAX_LENGTH or not token.isascii() or not token.isprintable() or " " in token:
        raise Refusal(
            "invalid_huggingface_token",
            "This is not a Hugging Face token.",
            "Copy one with the role `read` from https://huggingface.co/settings/tokens; it begins with `hf_`.",
            field="token",
        )
    kept, _ = HuggingFaceToken.objects.update_or_create(team=team, defaults={"sealed": seal(token), "set_by": actor})
    record(Verb.HUGGINGFACE_TOKEN_SET, SUBJECT, team=team, actor=actor)
    return kept


@transaction.atomic
def remove_huggingface_token(team: Team, *, actor: User) -> None:
    """Delete the token, if there is one.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.REMOVE_HUGGINGFACE_TOKEN, actor, team)
    deleted, _ = HuggingFaceToken.objects.filter(team=team).delete()
    if deleted:
        record(Verb.HUGGINGFACE_TOKEN_REMOVED, SUBJECT, team=team, actor=actor)


def open_huggingface_token(team: Team) -> str | None:
    """Return the token itself, for the download process; None if the team has none.

    Raises:
        Refusal: `huggingface_token_unreadable`.
    """
    kept = HuggingFaceToken.objects.filter(team=team).first()
    try:
        return unseal(kept.sealed) if kept else None
    except Unreadable as error:
        raise Refusal(
            "huggingface_token_unreadable",
            "The team's Hugging Face token was encrypted with another SECRET_KEY and cannot be read.",
            "Ask an admin of the team to set it again, on the Team page or with `finetune-hub huggingface-token set`.",
        ) from error
