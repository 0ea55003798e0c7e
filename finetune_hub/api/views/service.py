"""The service itself: the schema, whether it answers at all, and addresses that do not exist."""

from __future__ import annotations

from typing import Any, cast

from django.http import Http404
from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.schema import SCHEMA_SETTINGS
from finetune_hub.api.serializers import HealthSerializer
from finetune_hub.api.views.hub_view import HubView


class Health(HubView):
    authentication_classes = []
    permission_classes = []

    @extend_schema(operation_id="get_health", auth=[], responses={200: HealthSerializer})
    def get(self, request: Request) -> Response:
        """Whether the web process answers; it says no more than that."""
        return Response({"status": "ok"})


class Schema(SpectacularAPIView):
    """The OpenAPI schema. It is public: it holds no data, and client generators have no token."""

    authentication_classes = []
    permission_classes = []
    custom_settings = SCHEMA_SETTINGS

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return cast(Response, super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]


class UnknownAddress(HubView):
    """Below `/api/`, an address that does not exist answers in JSON too."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(exclude=True)
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404
