"""Endpoints for the members of the token's team: list, add, change role, remove."""

from __future__ import annotations

from django.db.models import QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.actions import add_member, change_role, remove_member
from finetune_hub.accounts.models import Membership
from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewMember, RoleChange, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.accounts import AddedMemberSerializer, MemberSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors


def members_of(request: Request) -> QuerySet[Membership]:
    return team_of(request).memberships.select_related("user", "team")


class Members(HubView):
    rights = {"post": Right.ADD_MEMBER}

    @extend_schema(
        operation_id="list_members",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(MemberSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's members with their roles."""
        return self.page(members_of(request), MemberSerializer, by="joined_at")

    @extend_schema(
        operation_id="add_member",
        request=NewMember,
        responses={201: AddedMemberSerializer, **errors(400, 401, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Add a user to the team. A new user is created with the e-mail and a login link, which is shown once."""
        body = read_body(request, NewMember)
        membership, link = add_member(
            team_of(request), body.username, role=body.role, actor=user_of(request), email=body.email
        )
        return Response({**MemberSerializer(membership).data, "login_link": link}, status=201)


class OneMember(HubView):
    rights = {"patch": Right.CHANGE_ROLE, "delete": Right.REMOVE_MEMBER}

    @extend_schema(
        operation_id="change_role",
        request=RoleChange,
        responses={200: MemberSerializer, **errors(400, 401, 404, 409, 413, 415, 422)},
    )
    def patch(self, request: Request, username: str) -> Response:
        """Change the member's role. The last admin must stay admin."""
        membership, body = get_row(members_of(request), user__username=username), read_body(request, RoleChange)
        return Response(MemberSerializer(change_role(membership, body.role, actor=user_of(request))).data)

    @extend_schema(operation_id="remove_member", responses={204: None, **errors(401, 404, 409)})
    def delete(self, request: Request, username: str) -> Response:
        """Remove the member. Their tokens of this team stop working immediately; their jobs stay."""
        remove_member(get_row(members_of(request), user__username=username), actor=user_of(request))
        return Response(status=204)
