"""Changes to a spec, keyed by field path: `{"training.micro_batch_size": 1}`."""

from __future__ import annotations

from typing import Any

from finetune_hub.spec.training import TrainingSpec

Changes = dict[str, Any]


def changed(spec: TrainingSpec, changes: Changes) -> TrainingSpec:
    """Return the spec with other values in some fields: `{"training.micro_batch_size": 1}`."""
    document = spec.model_dump(mode="json")
    for field, value in changes.items():
        part, _, name = field.partition(".")
        document[part][name] = value
    return TrainingSpec.model_validate(document)
