"""Endpoints for notifications: e-mails to the token's user and messages to the team's chat room."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.models import User
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import EmailNotifications, NewChatWebhook, read_body
from finetune_hub.api.serializers.operations import ChatWebhookSerializer, EmailNotificationsSerializer
from finetune_hub.api.views.hub_view import HubView, errors
from finetune_hub.notifications.actions import connect_chat, disconnect_chat, wish_for_email
from finetune_hub.notifications.models import ChatWebhook, EmailWish, Wants


class Email(HubView):
    rights = {"put": Right.WISH_FOR_EMAIL}

    @extend_schema(operation_id="get_email_notifications", responses={200: EmailNotificationsSerializer, **errors(401)})
    def get(self, request: Request) -> Response:
        """Show which e-mails you get about your own jobs, and at which address."""
        return Response(wish_of(user_of(request)))

    @extend_schema(
        operation_id="set_email_notifications",
        request=EmailNotifications,
        responses={200: EmailNotificationsSerializer, **errors(400, 401, 409, 413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Choose which e-mails you get, if any."""
        body = read_body(request, EmailNotifications)
        wish_for_email(user_of(request), body.wants, email=body.email, actor=user_of(request))
        return Response(wish_of(user_of(request)))


class Chat(HubView):
    rights = {"put": Right.CONNECT_CHAT, "delete": Right.DISCONNECT_CHAT}

    @extend_schema(operation_id="get_chat_webhook", responses={200: ChatWebhookSerializer, **errors(401, 404)})
    def get(self, request: Request) -> Response:
        """Show the chat room that gets messages about the team's jobs. Only the URL's host is shown."""
        webhook = ChatWebhook.objects.filter(team=team_of(request)).select_related("set_by").first()
        if webhook is None:
            raise Http404
        return Response(ChatWebhookSerializer(webhook).data)

    @extend_schema(
        operation_id="connect_chat_webhook",
        request=NewChatWebhook,
        responses={200: ChatWebhookSerializer, **errors(400, 401, 413, 415, 422)},
    )
    def put(self, request: Request) -> Response:
        """Send messages about the team's jobs to a chat room. This replaces an earlier chat room."""
        body = read_body(request, NewChatWebhook)
        webhook = connect_chat(team_of(request), body.url, body.wants, actor=user_of(request))
        return Response(ChatWebhookSerializer(webhook).data)

    @extend_schema(operation_id="disconnect_chat_webhook", responses={204: None, **errors(401)})
    def delete(self, request: Request) -> Response:
        """Stop sending messages to the chat room."""
        disconnect_chat(team_of(request), actor=user_of(request))
        return Response(status=204)


def wish_of(user: User) -> dict[str, Any]:
    wish = EmailWish.objects.filter(user=user).first()
    return {"email": user.email, "wants": wish.wants if wish else Wants.NOTHING}
