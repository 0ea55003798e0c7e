"""An evaluation: rows answered with and without an adapter, and exact matches counted."""

from __future__ import annotations

from finetune_hub.accounts.models import Team, User
from finetune_hub.catalog.choices import find_dataset_version
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.submission import create_job
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.training import DatasetChoice


class Evaluation(Kind):
    name, label, noun = "evaluate", "Evaluate", "an evaluation"
    result_template = "jobs/kinds/evaluation_result.html"

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
) -> Job:
    """Queue an evaluation: answer the rows with and without the adapter and count exact matches.

    Raises:
        Refusal: `unknown_dataset`, `path_not_allowed`.
    """
    return create_job(
        Evaluation,
        team=team,
        created_by=user,
        base_model=adapter_version.adapter.base_model,
        adapter_version=adapter_version,
        spec={"max_rows": max_rows, "max_new_tokens": max_new_tokens},
        choices=[(find_dataset_version(team, dataset), 1.0)],
    )
