"""Merge patches (RFC 7396): what differs from a document, as a document."""

from __future__ import annotations

from typing import Any


def merge_patch(document: Any, patch: Any) -> Any:
    """The document with the patch applied: objects are merged, null removes, anything else replaces.

    An object whose `type` changes is replaced whole: the options of LoRA mean nothing to prompt tuning.
    """
    if not isinstance(patch, dict):
        return patch
    kept = (
        document
        if isinstance(document, dict) and patch.get("type", document.get("type")) == document.get("type")
        else {}
    )
    merged = {key: value for key, value in kept.items() if key not in patch}
    changes = {key: merge_patch(kept.get(key), value) for key, value in patch.items() if value is not None}
    return merged | changes
