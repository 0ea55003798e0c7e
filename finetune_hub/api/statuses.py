"""HTTP statuses of refusals. The code that refuses gives a kind; only this module maps it to a number."""

from __future__ import annotations

from finetune_hub.spec.refusal import Refusal, RefusalKind

STATUSES: dict[RefusalKind, int] = {
    "malformed": 400,
    "forbidden": 403,
    "missing": 404,
    "too_slow": 408,
    "conflict": 409,
    "gone": 410,
    "too_large": 413,
    "invalid": 422,
    "too_many": 429,
    "failed": 500,
    "unavailable": 503,
    "no_room": 507,
}
KIND_OF_STATUS = {status: kind for kind, status in STATUSES.items()}


def status_of(refusal: Refusal) -> int:
    return STATUSES[refusal.kind]
