"""All URLs of the hub: the dashboard at the root, the API under `/api/`, and `/metrics`."""

from __future__ import annotations

from django.urls import include, path

from finetune_hub.api.views.metrics import Metrics

urlpatterns = [
    path("api/", include("finetune_hub.api.urls")),
    path("metrics", Metrics.as_view(), name="metrics"),
    path("", include("finetune_hub.dashboard.urls")),
]
