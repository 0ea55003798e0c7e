"""An evaluation: answer rows with and without an adapter, and count exact matches."""

from __future__ import annotations

from pydantic import Field

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.choices import find_dataset_version
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.submission import create_job
from finetune_hub.registry.adapter_choices import find_adapter_version
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.numbers import LARGEST
from finetune_hub.spec.part import Part
from finetune_hub.spec.references import AdapterName, DatasetName, split_version
from finetune_hub.spec.training import DatasetChoice


class EvaluateOptions(Part):
    """Answer held-out rows with and without an adapter, and count exact matches."""

    adapter: AdapterName = Field(description="What to evaluate. A name without a version means the newest.")
    dataset: DatasetName = Field(description="Rows that it was not trained on.")
    max_rows: int | None = Field(
        None, ge=1, le=LARGEST, description="Use only this many rows from the start; omit for all."
    )
    max_new_tokens: int = Field(256, ge=1, le=8192, description="Maximum tokens per answer.")


class Evaluation(Kind):
    name, label, noun = "evaluate", "Evaluate", "an evaluation"
    result_template = "jobs/kinds/evaluation_result.html"

    options = EvaluateOptions

    def submit(self, team: Team, user: User, options: EvaluateOptions, *, idempotency_key: str | None = None) -> Job:
        adapter, number = split_version(options.adapter)
        dataset, version = split_version(options.dataset)
        return submit_evaluation(
            team,
            user,
            adapter_version=find_adapter_version(team, adapter, number),
            dataset=DatasetChoice(name=dataset, version=version),
            max_rows=options.max_rows,
            max_new_tokens=options.max_new_tokens,
            idempotency_key=idempotency_key,
        )

    def subject(self, job: Job) -> str:
        return str(job.adapter_version or job.over.name)


def submit_evaluation(
    team: Team,
    user: User,
    *,
    adapter_version: AdapterVersion,
    dataset: DatasetChoice,
    max_rows: int | None = None,
    max_new_tokens: int = 256,
    idempotency_key: str | None = None,
) -> Job:
    """Queue an evaluation: answer the rows with and without the adapter and count exact matches.

    Raises:
        Refusal: `forbidden`, `unknown_dataset`, `path_not_allowed`.
    """
    require_right(Right.SUBMIT_EVALUATION, user, team)
    return create_job(
        Evaluation,
        team=team,
        created_by=user,
        base_model=adapter_version.adapter.base_model,
        adapter_version=adapter_version,
        spec={"max_rows": max_rows, "max_new_tokens": max_new_tokens},
        idempotency_key=idempotency_key,
        choices=[(find_dataset_version(team, dataset), 1.0)],
    )
