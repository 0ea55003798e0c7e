"""A dataset import's attempt: its file is checked like an upload, and becomes the dataset's newest version."""

from __future__ import annotations

import shutil

from django.conf import settings

from finetune_hub.catalog.actions import Origin, keep_dataset_version
from finetune_hub.catalog.dataset_sources import DatasetSource, parse_dataset_source
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Job
from finetune_hub.spec.run import FetchedDataset, UrlFetchRun
from workers.attempt_folder import AttemptFolder
from workers.kinds.fetching import download_folder, huggingface_fetch, pinned
from workers.kinds.work import Finish, Start, Work


class DatasetImportWork(Work):
    kind = "dataset"

    def prepare(self, start: Start) -> None:
        job, folder = start.job, start.folder
        source = parse_dataset_source(job.spec["source"])
        if source.kind == "hf":
            reference = pinned(source.reference, job.spec.get("commit"))
            start.add_command(
                "workers.fetch_huggingface", "fetch-huggingface", huggingface_fetch(job, "dataset", reference, folder)
            )
        else:
            start.add_command("workers.fetch_url", "fetch-url", url_fetch(job, source, folder))

    def publish(self, finish: Finish) -> None:
        """Store and publish the version. Storing it needs no fence: the same rows again give the same version."""
        job, fetched = finish.job, FetchedDataset.model_validate(finish.result)
        version = keep_dataset_version(
            job.team,
            job.created_by,
            name=job.spec["name"],
            file=fetched.file,
            filename=fetched.file_name,
            mapping=job.spec["mapping"],
            on_error=job.spec["on_error"],
            origin=Origin(source=fetched.source, license=fetched.license),
        )
        facts = {"dataset_id": version.dataset_id, "name": version.dataset.name, "number": version.number}
        worker_port.succeed(finish.lease, facts | {"row_count": version.row_count}, f"{version} is ready.")

    def clean_up(self, job: Job) -> None:
        if job.has_ended:
            shutil.rmtree(download_folder(job), ignore_errors=True)


def url_fetch(job: Job, source: DatasetSource, folder: AttemptFolder) -> UrlFetchRun:
    return UrlFetchRun(
        url=source.value,
        file_name=source.file_name,
        folder=download_folder(job),
        max_bytes=settings.DATASET_UPLOAD_MAX_BYTES,
        max_seconds=settings.DATASET_FETCH_WITHIN.total_seconds(),
        allow_private=settings.ALLOW_PRIVATE_URLS,
        output_dir=folder.output,
    )
