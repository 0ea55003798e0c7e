"""Merge patches (RFC 7396): changes to a document, written as a document."""

from __future__ import annotations

from typing import Any


def merge_patch(document: Any, patch: Any) -> Any:
    """Return the document with the patch applied: objects are merged, null removes, anything else replaces.

    If an object's `type` changes, the whole object is replaced: LoRA's options mean nothing to prompt tuning.
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
