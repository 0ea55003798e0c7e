"""Endpoints for base model aliases: list, set, remove."""

from __future__ import annotations

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.accounts.rights import Right
from finetune_hub.api.authentication import team_of, user_of
from finetune_hub.api.bodies import NewAlias, read_body
from finetune_hub.api.lookups import get_row
from finetune_hub.api.paging import page_of
from finetune_hub.api.serializers.base_models import AliasSerializer
from finetune_hub.api.views.hub_view import PAGE_PARAMETERS, HubView, errors
from finetune_hub.catalog.aliases import remove_alias, set_alias
from finetune_hub.catalog.models import BaseModelAlias


class Aliases(HubView):
    rights = {"post": Right.SET_ALIAS}

    @extend_schema(
        operation_id="list_base_model_aliases",
        parameters=PAGE_PARAMETERS,
        responses={200: page_of(AliasSerializer), **errors(401, 422)},
    )
    def get(self, request: Request) -> Response:
        """List the team's aliases: other names for base models, accepted wherever a base model is named."""
        rows = BaseModelAlias.objects.of_team(team_of(request)).select_related("base_model")
        return self.page(rows, AliasSerializer)

    @extend_schema(
        operation_id="set_base_model_alias",
        request=NewAlias,
        responses={200: AliasSerializer, **errors(400, 401, 409, 413, 415, 422)},
    )
    def post(self, request: Request) -> Response:
        """Set an alias for a base model. An existing alias is changed to refer to this base model."""
        body = read_body(request, NewAlias)
        kept = set_alias(team_of(request), user_of(request), alias=body.alias, base_model=body.base_model)
        return Response(AliasSerializer(kept).data)


class OneAlias(HubView):
    rights = {"delete": Right.REMOVE_ALIAS}

    @extend_schema(operation_id="remove_base_model_alias", responses={200: AliasSerializer, **errors(401, 404)})
    def delete(self, request: Request, alias: str) -> Response:
        """Remove the alias. Jobs that were submitted with it do not change."""
        rows = BaseModelAlias.objects.of_team(team_of(request)).select_related("base_model", "team")
        found = get_row(rows, alias=alias)
        answer = Response(AliasSerializer(found).data)
        remove_alias(found, user_of(request))
        return answer
