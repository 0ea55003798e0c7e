"""Render every API error in one shape: `{"error": {code, message, remedy, field, details}}`.

`docs/api-errors.md` lists the codes; a test compares that list with the code.
"""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied, SuspiciousOperation
from django.http import Http404
from pydantic import ValidationError
from rest_framework import exceptions
from rest_framework.response import Response

from finetune_hub.api.statuses import KIND_OF_STATUS, headers_of, status_of
from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.machine.full_disk import disk_full, is_full_disk
from finetune_hub.spec.document_defects import refuse_document
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.training import TrainingSpec

log = logging.getLogger(__name__)

# Exceptions of Django REST framework → our code and remedy. The message is the exception's, or one of `MESSAGES`.
REMEDIES: dict[type[exceptions.APIException], tuple[str, str]] = {
    exceptions.ParseError: ("invalid_body", "Send valid JSON, or valid multipart form data for an upload."),
    exceptions.NotAuthenticated: ("not_authenticated", "Send the header `Authorization: Bearer <token>`."),
    exceptions.AuthenticationFailed: ("invalid_token", "Create a new token, then run `finetune-hub login`."),
    exceptions.PermissionDenied: ("forbidden", "Ask an admin of your team."),
    exceptions.NotFound: ("not_found", "Check the URL and the id. A token can only access its own team's data."),
    exceptions.MethodNotAllowed: ("method_not_allowed", "See `/api/schema` for the methods of this endpoint."),
    exceptions.UnsupportedMediaType: (
        "unsupported_media_type",
        "See `/api/schema` for the media types that this endpoint accepts.",
    ),
    exceptions.Throttled: ("too_many_requests", "Wait for the number of seconds in `Retry-After`, then try again."),
}
MESSAGES: dict[type[exceptions.APIException], str] = {
    exceptions.NotAuthenticated: "This endpoint requires a token.",
    exceptions.AuthenticationFailed: "The token is unknown, expired or revoked, or its user has left the team.",
    exceptions.PermissionDenied: "Your role does not allow this.",
    exceptions.NotFound: "Not found.",
}


def render_error(error: Exception, context: dict[str, Any]) -> Response:
    """Render the exception as a response, with the headers it requires. This is DRF's exception handler."""
    refusal = as_refusal(error)
    if refusal is None:
        request_id = getattr(context["view"], "request_id", "unknown")
        log.error("request %s failed", request_id, exc_info=error)
        refusal = Refusal(
            "internal",
            f"An internal error occurred. It was logged under the request id {request_id}.",
            "Try again. If the error persists, send the request id to the people who run the hub.",
            kind="failed",
        )
    headers = headers_of(refusal)
    if challenge := getattr(error, "auth_header", None):
        headers["WWW-Authenticate"] = challenge
    if wait := getattr(error, "wait", None):
        headers["Retry-After"] = f"{wait:.0f}"
    status = error.status_code if isinstance(error, exceptions.APIException) else status_of(refusal)
    return Response(error_body(refusal), status=status, headers=headers)


def error_body(refusal: Refusal) -> dict[str, Any]:
    return {
        "error": {
            "code": refusal.code,
            "message": refusal.message,
            "remedy": refusal.remedy,
            "field": refusal.field,
            "details": refusal.details,
        }
    }


def as_refusal(error: Exception) -> Refusal | None:
    """Convert an exception to a refusal; None for an unexpected exception."""
    match error:
        case Refusal():
            return error
        case ValidationError():
            return refuse_document(error, TrainingSpec, "invalid_spec")
        case ArtifactError():
            log.error("artifact store: %s", error)
            return Refusal(
                "artifact_unavailable",
                "The artifact store did not return the file.",
                "Try again. If the error persists, contact the people who run the hub.",
                kind="unavailable",
            )
        case Http404():
            return as_refusal(exceptions.NotFound())
        case PermissionDenied():
            return as_refusal(exceptions.PermissionDenied())
        case OSError() if is_full_disk(error):
            log.error("disk: %s", error)
            return disk_full()
        case SuspiciousOperation():
            return Refusal("invalid_body", f"{error}", "Send fewer and shorter fields.", kind="malformed")
        case exceptions.APIException():
            code, remedy = next(
                (entry for kind, entry in REMEDIES.items() if isinstance(error, kind)),
                ("invalid_request", "See `/api/schema` for what this endpoint expects."),
            )
            message = MESSAGES.get(type(error), str(error.detail))
            return Refusal(code, message, remedy, kind=KIND_OF_STATUS.get(error.status_code, "invalid"))
    return None
