"""Refusals as pages: what is wrong and what to do."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from finetune_hub.api.statuses import headers_of, status_of
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.spec.refusal import Refusal


def render_refusal(request: HttpRequest, refusal: Refusal, *, status: int | None = None) -> HttpResponse:
    """Render the refusal.

    Args:
        status: None: the refusal's own status.
    """
    status = status or status_of(refusal)
    context = {"problem": refusal.problem, "status": status}
    return with_headers_of(render(request, "refusal.html", context, status=status), refusal)


def with_headers_of(response: HttpResponse, refusal: Refusal) -> HttpResponse:
    """Add the refusal's headers to a page that shows it."""
    for name, value in headers_of(refusal).items():
        response[name] = value
    return response


def not_given(error: ArtifactError) -> Refusal:
    """Return the refusal for a file that the artifact store did not return, with the reason."""
    return Refusal(
        "artifact_unavailable", "The artifact store did not return the file.", str(error), kind="unavailable"
    )
