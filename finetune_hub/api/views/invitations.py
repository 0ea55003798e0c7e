"""Endpoints for inviting workers on other machines: list, invite, revoke."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import user_of
from finetune_hub.api.bodies import NewInvitation, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.fleet import InvitationSerializer, WayInSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors
from finetune_hub.fleet.invitations import invite, revoke
from finetune_hub.fleet.models import WorkerRole


class Invitations(HubView):
    rights = {"post": Right.INVITE_WORKER}

    @extend_schema(
        operation_id="list_worker_invitations",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(InvitationSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the invited workers, whether they have joined or not. Their passwords are never shown."""
        return self.page(WorkerRole.objects.all(), InvitationSerializer)

    @extend_schema(
        operation_id="invite_worker",
        request=NewInvitation,
        responses={201: WayInSerializer, **errors(400, 401, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Invite a worker, or give it a new password. The password is only shown in this response."""
        way_in = invite(read_body(request, NewInvitation).name, actor=user_of(request))
        return Response(WayInSerializer(way_in).data, status=201, headers={"Cache-Control": "no-store"})


class OneInvitation(HubView):
    rights = {"delete": Right.REVOKE_WORKER}

    @extend_schema(operation_id="revoke_worker", responses={204: None, **errors(401, 404, 409)})
    def delete(self, request: Request, name: str) -> Response:
        """Revoke the worker's access immediately. Its jobs continue on other workers when their leases expire."""
        revoke(get_row(WorkerRole.objects.all(), worker_name=name).worker_name, actor=user_of(request))
        return Response(status=204)
