"""Refusals as pages: what is wrong and what to do."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from finetune_hub.api.statuses import status_of
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.spec.refusal import Refusal


def render_refusal(request: HttpRequest, refusal: Refusal, *, status: int | None = None) -> HttpResponse:
    """Render the refusal.

    Args:
        status: None: the refusal's own status.
    """
    status = status or status_of(refusal)
    response = render(request, "refusal.html", {"problem": refusal.problem, "status": status}, status=status)
    return with_retry_after(response, refusal)


def with_retry_after(response: HttpResponse, refusal: Refusal) -> HttpResponse:
    """Add the header that says when to try again, where the refusal knows."""
    if refusal.retry_after_seconds is not None:
        response["Retry-After"] = str(refusal.retry_after_seconds)
    return response


def not_given(error: ArtifactError) -> Refusal:
    """Return the refusal for a file that the artifact store did not return, with the reason."""
    return Refusal(
        "artifact_unavailable", "The artifact store did not return the file.", str(error), kind="unavailable"
    )
