"""What the imports share: documents for the process that fetches from Hugging Face, and where downloads are stored."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from finetune_hub.accounts.huggingface_tokens import open_huggingface_token
from finetune_hub.artifacts.huggingface import RepositoryKind
from finetune_hub.jobs.models import Job
from finetune_hub.spec.huggingface_reference import HuggingFaceReference
from finetune_hub.spec.run import HuggingFaceFetchRun
from workers.attempt_folder import AttemptFolder


def pinned(reference: HuggingFaceReference, commit: str | None) -> HuggingFaceReference:
    """Pin the reference to the commit that an earlier attempt found, if there is one."""
    return reference.at(commit) if commit else reference


def huggingface_fetch(
    job: Job, kind: RepositoryKind, reference: HuggingFaceReference, folder: AttemptFolder
) -> HuggingFaceFetchRun:
    is_model = kind == "model"
    within = settings.BASE_MODEL_FETCH_WITHIN if is_model else settings.DATASET_FETCH_WITHIN
    return HuggingFaceFetchRun(
        kind=kind,
        reference=reference,
        folder=download_folder(job),
        max_bytes=settings.BASE_MODEL_FETCH_MAX_BYTES if is_model else settings.DATASET_UPLOAD_MAX_BYTES,
        max_seconds=within.total_seconds(),
        token_file=write_huggingface_token(job, folder),
        output_dir=folder.output,
    )


def write_huggingface_token(job: Job, folder: AttemptFolder) -> Path | None:
    """Write the team's Hugging Face token to a file for the fetching process, which deletes it; None: no token."""
    token = open_huggingface_token(job.team)
    if token is None:
        return None
    path = folder.path / "huggingface-token"
    path.touch(mode=0o600)
    path.write_text(token)
    return path


def download_folder(job: Job) -> Path:
    """Return where an import keeps its downloads until it is done. Teams do not share downloaded models."""
    path: Path = settings.HOME / "cache" / "downloads" / (job.base_model_id or job.pk)
    return path
