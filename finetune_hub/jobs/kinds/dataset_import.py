"""The import of a dataset from Hugging Face or a URL, which becomes its newest version."""

from __future__ import annotations

from finetune_hub.accounts.models import Team, User
from finetune_hub.accounts.rights import Right, require_right
from finetune_hub.catalog.actions import OnError, check_name
from finetune_hub.catalog.dataset_sources import parse_dataset_source
from finetune_hub.jobs.kinds.kind import Kind
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.submission import create_job


class DatasetImport(Kind):
    name, label, noun = "dataset", "Dataset import", "the import of a dataset"
    needs_gpu = False
    needs_trusted_worker = True
    result_template = "jobs/kinds/dataset_import_result.html"

    def subject(self, job: Job) -> str:
        return str(job.spec["name"])


def import_dataset(
    team: Team,
    user: User,
    *,
    name: str,
    source: str,
    mapping: dict[str, str] | None = None,
    on_error: OnError = "refuse",
) -> Job:
    """Queue the import of a dataset's next version; once downloaded, it is checked like an upload.

    Raises:
        Refusal: `forbidden`, `invalid_name`, `unknown_source`.
    """
    require_right(Right.IMPORT_DATASET, user, team)
    checked = parse_dataset_source(source)
    spec = {"name": check_name(name), "source": str(checked), "mapping": mapping, "on_error": on_error}
    return create_job(DatasetImport, team=team, created_by=user, spec=spec)
