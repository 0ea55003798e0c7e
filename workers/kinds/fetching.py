"""What the imports share: documents for the process that fetches from Hugging Face, and where downloads lie."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from finetune_hub.accounts.hub_tokens import open_hub_token
from finetune_hub.artifacts.hugging_face import Kind
from finetune_hub.jobs.models import Job
from finetune_hub.spec.hub_reference import HubReference
from finetune_hub.spec.run import HubFetchRun
from workers.attempt_folder import AttemptFolder


def pinned(reference: HubReference, commit: str | None) -> HubReference:
    """At the commit that an earlier attempt found, if there was one."""
    return reference.at(commit) if commit else reference


def hub_fetch(job: Job, kind: Kind, reference: HubReference, folder: AttemptFolder) -> HubFetchRun:
    return HubFetchRun(
        kind=kind,
        reference=reference,
        folder=download_folder(job),
        max_bytes=settings.DATASET_UPLOAD_MAX_BYTES if kind == "dataset" else None,
        token_file=write_hub_token(job, folder),
        output_dir=folder.output,
    )


def write_hub_token(job: Job, folder: AttemptFolder) -> Path | None:
    """The team's hub token in a file for the fetching process alone, which deletes it; None: the team has none."""
    token = open_hub_token(job.team)
    if token is None:
        return None
    path = folder.path / "hub-token"
    path.touch(mode=0o600)
    path.write_text(token)
    return path


def download_folder(job: Job) -> Path:
    """Where an import keeps what it fetched until it is done. A model of one team is no cache for another."""
    path: Path = settings.HOME / "cache" / "downloads" / (job.base_model_id or job.pk)
    return path
