"""Every address of the service: the dashboard's pages at the root, the API below `/api/`."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [
    path("api/", include("finetune_hub.api.urls")),
    path("", include("finetune_hub.dashboard.urls")),
]
