"""HTTP statuses of refusals. The code that refuses gives a kind; only this module maps it to a number."""

from __future__ import annotations

from finetune_hub.registry.ranges import RangeRefused
from finetune_hub.spec.refusal import Refusal, RefusalKind

STATUSES: dict[RefusalKind, int] = {
    "malformed": 400,
    "forbidden": 403,
    "missing": 404,
    "too_slow": 408,
    "conflict": 409,
    "gone": 410,
    "too_large": 413,
    "outside": 416,
    "invalid": 422,
    "too_many": 429,
    "failed": 500,
    "unavailable": 503,
    "no_room": 507,
}
KIND_OF_STATUS = {status: kind for kind, status in STATUSES.items()}


def status_of(refusal: Refusal) -> int:
    return STATUSES[refusal.kind]


def headers_of(refusal: Refusal) -> dict[str, str]:
    """Return the headers that the response to a refusal has."""
    headers = {}
    if refusal.retry_after_seconds is not None:
        headers["Retry-After"] = str(refusal.retry_after_seconds)
    if isinstance(refusal, RangeRefused):
        headers["Content-Range"] = f"bytes */{refusal.size_bytes}"
    return headers
