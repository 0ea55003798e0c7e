"""Model cards: the README.md next to an adapter's weights, on what it is, its origin, and how to use it.

The front matter follows the convention of model hubs, so they can read an uploaded card.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import yaml

from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.spec.compatibility import Answer, compatibility_of
from finetune_hub.spec.training import TrainingSpec

CARD_FILE = "README.md"
_ANSWERS: dict[Answer, str] = {"yes": "yes", "export": "after an export", "no": "no"}


def write_card(
    spec: TrainingSpec,
    *,
    job_id: str,
    base_model: BaseModel,
    dataset_versions: Iterable[DatasetVersion],
    summary: dict[str, Any],
    verification: dict[str, Any],
) -> str:
    """Return the card in Markdown.

    Args:
        summary: The trainer's `TrainResult`.
        verification: The `VerifyResult` of the fresh process.
    """
    versions = list(dataset_versions)
    header = {
        "base_model": base_model.name,
        "library_name": "peft",
        "license": base_model.license.lower() or "other",
        "pipeline_tag": "text-generation",
        "tags": [spec.method.type, spec.objective.type],
        "datasets": [version.dataset.name for version in versions],
    }
    rows = "\n".join(
        f"| {version.dataset.name} | {version.number} | {version.row_count:,} | `{version.sha256}` |"
        for version in versions
    )
    programs = "\n".join(
        f"| {found.program} | {_ANSWERS[found.answer]} | {found.reason} |"
        for found in compatibility_of(spec.method, base_model.model_type)
    )
    return f"""\
---
{_yaml(header)}---

# {spec.adapter_name}

A {spec.method.type} adapter for **{base_model.name}**, trained and verified by finetune_hub (job `{job_id}`).

## Use it

In the folder with this file:

```python
{usage(base_model.name, ".")}
```

It fits this base model only: revision `{base_model.revision}`, from `{base_model.source}`.

## What can serve it

| program | | |
|---|---|---|
{programs}

## What it was trained on

| dataset | version | rows | SHA-256 |
|---|---|---|---|
{rows}

{summary["steps"]:,} steps over {summary["trained_tokens"]:,} tokens, of which {summary["supervised_tokens"]:,} were
supervised; the loss of the last step was {summary["final_loss"]:.4f}. The base model ran in {summary["dtype"]}.

```yaml
{_yaml(spec.model_dump(mode="json", exclude_none=True))}```

## What was checked

The files were reloaded in a fresh process. The logits differ from the trainer's by at most
{verification["max_difference"]:.1e}, where {verification["tolerance"]:.1e} was allowed.

## Licence

The base model's: {base_model.license or "not stated"}. The adapter's output depends on the data above and was not
examined further.
"""


def usage(base_model: str, folder: str) -> str:
    """Return the Python code that loads the adapter with PEFT."""
    return f"""\
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = "{base_model}"
tokenizer = AutoTokenizer.from_pretrained(base)
model = AutoModelForCausalLM.from_pretrained(base)
model = PeftModel.from_pretrained(model, "{folder}")"""


def _yaml(document: Any) -> str:
    return yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
