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
    return render(request, "refusal.html", {"problem": refusal.problem, "status": status}, status=status)


def not_given(error: ArtifactError) -> Refusal:
    """Return the refusal for a file that the artifact store did not return, with the reason."""
    return Refusal(
        "artifact_unavailable", "The artifact store did not return the file.", str(error), kind="unavailable"
    )
