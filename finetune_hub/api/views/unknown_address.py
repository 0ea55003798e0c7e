"""Catch-all for unknown URLs under `/api/`."""

from __future__ import annotations

from typing import Any

from django.http import Http404
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request

from finetune_hub.api.views.hub_view import HubView


class UnknownAddress(HubView):
    """A JSON 404 for unknown URLs under `/api/`."""

    authentication_classes = []
    permission_classes = []

    @extend_schema(exclude=True)
    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        raise Http404
