"""Endpoint for the OpenAPI schema of this API."""

from __future__ import annotations

from typing import Any, cast

from drf_spectacular.utils import extend_schema
from drf_spectacular.views import SpectacularAPIView
from rest_framework.request import Request
from rest_framework.response import Response

from finetune_hub.api.schema import SCHEMA_SETTINGS


class OpenApiSchema(SpectacularAPIView):
    """The OpenAPI schema. It is public, as it holds no data and client generators have no token."""

    authentication_classes = []
    permission_classes = []
    custom_settings = SCHEMA_SETTINGS

    @extend_schema(exclude=True)
    def get(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        return cast(Response, super().get(request, *args, **kwargs))  # type: ignore[no-untyped-call]
