"""The actions of notifications: choose emails, connect a chat room, and put messages into the outbox."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import urlsplit

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.accounts.actions import check_email, record
from finetune_hub.accounts.models import Team, User, Verb
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.accounts.sealing import seal
from finetune_hub.notifications.models import Channel, ChatWebhook, EmailWish, Notification, Wants
from finetune_hub.notifications.webhook import check_address
from finetune_hub.spec.ids import new_id
from finetune_hub.spec.refusal import Refusal

Text = Callable[[], tuple[str, str]]


@transaction.atomic
def wish_for_email(user: User, wants: Wants, *, email: str, actor: User) -> EmailWish:
    """Store the user's email address and which emails they want.

    Raises:
        Refusal: `forbidden`, `invalid_email`, `email_not_set_up`.
    """
    require_right(Right.WISH_FOR_EMAIL, actor, user)
    if email or wants != Wants.NOTHING:
        check_email(email)
    if wants != Wants.NOTHING and not settings.EMAIL_IS_SET_UP:
        raise Refusal(
            "email_not_set_up",
            "This hub cannot send email.",
            "Ask the hub's operator to set EMAIL_HOST; see docs/operations.md.",
            field="wants",
            kind="conflict",
        )
    if user.email != email:
        user.email = email
        user.save(update_fields=["email"])
    wish, _ = EmailWish.objects.update_or_create(user=user, defaults={"wants": wants})
    return wish


@transaction.atomic
def connect_chat(team: Team, url: str, wants: Wants, *, actor: User) -> ChatWebhook:
    """Notify the team's chat room from now on; a new URL replaces the previous one.

    Raises:
        Refusal: `forbidden`; `invalid_webhook`: it is not a URL that the service may call.
    """
    require_right(Right.CONNECT_CHAT, actor, team)
    check_address(url)
    host = urlsplit(url).hostname or ""
    values = {"sealed_url": seal(url), "host": host, "wants": wants, "set_by": actor, "set_at": Now()}
    webhook, _ = ChatWebhook.objects.update_or_create(team=team, defaults=values)
    record(Verb.CHAT_CONNECTED, host, team=team, actor=actor)
    Notification.objects.create(
        key=new_id("hello"),
        channel=Channel.CHAT,
        team=team,
        subject=f"{actor} has connected this room.",
        body=f"It gets messages about the jobs of {team.name} from now on. {settings.PUBLIC_URL}",
    )
    webhook.refresh_from_db()
    return webhook


@transaction.atomic
def disconnect_chat(team: Team, *, actor: User) -> None:
    """Delete the URL and its unsent messages. Idempotent.

    Raises:
        Refusal: `forbidden`.
    """
    require_right(Right.DISCONNECT_CHAT, actor, team)
    webhook = ChatWebhook.objects.filter(team=team).first()
    if webhook is None:
        return
    Notification.objects.waiting().filter(team=team, channel=Channel.CHAT).delete()
    webhook.delete()
    record(Verb.CHAT_DISCONNECTED, webhook.host, team=team, actor=actor)


def notify(key: str, *, team: Team, user: User, is_problem: bool, text: Text) -> int:
    """Put messages about an event into the outbox, for its subscribers: the job's user and the team's chat room.

    Call it in the transaction of the event, so that either both are stored or neither.

    Args:
        key: identifies the event, such as `ftjob-…:failed`; each key is sent only once.
        text: returns subject and body; only called if there are subscribers.

    Returns:
        The number of messages.
    """
    enough = [Wants.EVERYTHING, *([Wants.PROBLEMS] if is_problem else [])]
    messages = []
    wishes = EmailWish.objects.filter(user=user, wants__in=enough, user__memberships__team=team)
    if user.email and wishes.exists():
        messages.append(Notification(key=f"{key}:email", channel=Channel.EMAIL, team=team, user=user))
    if ChatWebhook.objects.filter(team=team, wants__in=enough).exists():
        messages.append(Notification(key=f"{key}:chat", channel=Channel.CHAT, team=team))
    if messages:
        subject, body = text()
        for message in messages:
            message.subject, message.body = " ".join(subject.split())[:300], body
        Notification.objects.bulk_create(messages, ignore_conflicts=True)
    return len(messages)
