"""Retention, in bounded rounds: delete what is old, and files that no row refers to.

    checkpoints     of jobs that ended KEEP_CHECKPOINTS ago
    logs            of attempts that ended KEEP_LOGS ago; events and curves stay
    deletions       that no one restored within KEEP_DELETED: their files
    leftovers       files stored KEEP_ORPHANS ago by an attempt or upload that died before it wrote their row
    uploads         without a new part for a day, and what a broken request left in `tmp`
    readings        of devices, after a day; sent messages, after a month

Files are deleted before their row, so that an interrupted round is repeated and leaves no file without a row.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import islice

from django.conf import settings
from django.db import transaction
from django.db.models.functions import Now

from finetune_hub.artifacts.manifest import ArtifactError
from finetune_hub.artifacts.store import ArtifactStore, shared_store
from finetune_hub.catalog.models import BaseModel, DatasetVersion
from finetune_hub.catalog.uploads import collect_uploads
from finetune_hub.fleet.models import DeviceSample
from finetune_hub.jobs.lifecycle import lock_job
from finetune_hub.jobs.models import ENDED_JOB_STATES, Attempt, Checkpoint, Job
from finetune_hub.notifications.models import Notification
from finetune_hub.operations.deletion.actions import purge_pass
from finetune_hub.operations.store_check import check_store, delete_unless_named, named_by
from finetune_hub.registry.models import AdapterVersion

PASS_LIMIT = 200
KEEP_READINGS = timedelta(days=1)
KEEP_MESSAGES = timedelta(days=30)


def tidy_pass() -> str:
    """Make one bounded round; the next one continues. Returns why files could not be deleted, or an empty string."""
    problem = ""
    try:
        store = shared_store(settings.ARTIFACT_URL)
        expire_checkpoints(store)
        collect_leftovers(store)
        collect_dataset_files(store)
        purge_pass(store)
        report = check_store(store, delete=True)
        problem = report.problem
    except (ArtifactError, OSError) as error:
        problem = f"Old files could not be deleted: {error}"
    collect_uploads()
    expire_logs()
    DeviceSample.objects.filter(at__lt=Now() - KEEP_READINGS).delete()
    Notification.objects.filter(created_at__lt=Now() - KEEP_MESSAGES).exclude(sent_at=None, given_up_at=None).delete()
    return problem


def expire_checkpoints(store: ArtifactStore) -> int:
    """Delete the checkpoints of jobs that ended long ago. Returns the number of jobs."""
    old = Job.objects.filter(finished_at__lt=Now() - settings.KEEP_CHECKPOINTS, checkpoints__isnull=False)
    job_ids = list(old.distinct().values_list("pk", flat=True)[:PASS_LIMIT])
    for job_id in job_ids:
        with transaction.atomic():
            job = lock_job(job_id)
            if job.state not in ENDED_JOB_STATES:  # Somebody has just retried it.
                continue
            for checkpoint in job.checkpoints.all():
                delete_files(store, checkpoint)
            job.checkpoints.all().delete()
    return len(job_ids)


def delete_files(store: ArtifactStore, checkpoint: Checkpoint) -> None:
    for entry in checkpoint.manifest:
        store.delete(f"{checkpoint.artifact_prefix}/{entry['path']}")


def expire_logs() -> int:
    """Delete the log tails of attempts that ended long ago. Returns the number of attempts."""
    old = Attempt.objects.filter(finished_at__lt=Now() - settings.KEEP_LOGS).exclude(log_tail="")
    chosen = old.order_by("finished_at").values("pk")[:PASS_LIMIT]
    return Attempt.objects.filter(pk__in=chosen).update(log_tail="")


def collect_leftovers(store: ArtifactStore) -> int:
    """Delete unused files of ended attempts, each checked once. Returns the number of files."""
    ended = Attempt.objects.filter(swept_at=None, finished_at__lt=Now() - settings.KEEP_ORPHANS)
    deleted = 0
    for attempt in ended.defer("log_tail").order_by("finished_at")[:PASS_LIMIT]:
        named = prefixes_in_use(attempt)
        for key in list(store.keys(attempt.artifact_prefix)):
            if not any(key.startswith(f"{prefix}/") for prefix in named):
                store.delete(key)
                deleted += 1
        Attempt.objects.filter(pk=attempt.pk).update(swept_at=Now())
    return deleted


def prefixes_in_use(attempt: Attempt) -> set[str]:
    """Return the folders in the attempt's own folder that some row refers to."""
    below = {"artifact_prefix__startswith": f"{attempt.artifact_prefix}/"}
    rows = (model.objects.filter(**below) for model in (AdapterVersion, BaseModel, Checkpoint))
    return {prefix for found in rows for prefix in found.values_list("artifact_prefix", flat=True)}


def collect_dataset_files(store: ArtifactStore) -> int:
    """Delete files of datasets that no version refers to. Returns the number of files."""
    named = {key for version in named_by(DatasetVersion.objects.with_files()) for key in version.keys}
    old = store.keys("datasets", older_than=settings.KEEP_ORPHANS)
    orphans = list(islice((key for key in old if key not in named), PASS_LIMIT))
    return sum(delete_unless_named(store, key) for key in orphans)
