"""A training's attempt: train, verify in a fresh process, publish the adapter with its card."""

from __future__ import annotations

from pathlib import Path

from django.conf import settings

from finetune_hub.artifacts.manifest import CorruptArtifact
from finetune_hub.artifacts.store import get_folder, shared_store
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.planning import shape_of
from finetune_hub.registry.model_card import CARD_FILE, write_card
from finetune_hub.scheduling.disk import run_bytes
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.refusal import Refusal
from finetune_hub.spec.run import TrainRun, VerifyRun
from workers.attempt_folder import AttemptFolder
from workers.inputs import base_model_folder, dataset_files
from workers.kinds.work import ENGINE, Finish, Start, Work


class TrainingWork(Work):
    kind = "train"

    def bytes_needed(self, job: Job) -> int | None:
        """Return the size of its checkpoints, because running out of disk at the first one would lose hours."""
        try:
            return run_bytes(job.training_spec(), shape_of(job.over))
        except Refusal:
            return None  # The model's layers are unknown; the engine will find out.

    def prepare(self, start: Start) -> None:
        job, folder = start.job, start.folder
        base = base_model_folder(job.over)
        run = TrainRun(
            spec=job.training_spec(),
            base_model_dir=base,
            base_model_name=job.over.name,
            datasets=dataset_files(job),
            output_dir=folder.output,
            resume_from=checkpoint_folder(job, folder),
            seconds_left=seconds_left(job),
            device=start.device,
            threads=start.threads,
        )
        start.add_command(ENGINE, "train", run)
        verify = VerifyRun(
            base_model_dir=base,
            adapter_dir=folder.output / "adapter",
            probe_file=folder.output / "probe.safetensors",
            output_dir=folder.verification,
            device=start.device,
            threads=start.threads,
        )
        start.add_command(ENGINE, "verify", verify, ahead=True)

    def publish(self, finish: Finish) -> None:
        job, verification = finish.job, finish.folder.verification_result()
        card = write_card(
            job.training_spec(),
            job_id=job.pk,
            base_model=job.over,
            dataset_versions=job.dataset_versions.select_related("dataset"),
            summary=finish.result,
            verification=verification,
        )
        (finish.folder.output / "adapter" / CARD_FILE).write_text(card, encoding="utf-8")
        prefix, files = finish.store_output("adapter")
        worker_port.publish_adapter(
            finish.lease,
            artifact_prefix=prefix,
            files=files,
            result=finish.result,
            verification=verification,
            model_card=card,
        )


def seconds_left(job: Job) -> float | None:
    """Return what earlier attempts have left of the job's maximum duration; None: unlimited."""
    limit = job.training_spec().runtime.max_duration_seconds
    return None if limit is None else max(0.0, limit - job.run_time().total_seconds())


def checkpoint_folder(job: Job, folder: AttemptFolder) -> Path | None:
    """Return a local folder with the job's newest intact checkpoint; None: start from the beginning."""
    store = shared_store(settings.ARTIFACT_URL)
    for checkpoint in job.checkpoints.order_by("-step", "-pk"):
        entries = [FileEntry.model_validate(entry) for entry in checkpoint.manifest]
        try:
            found = get_folder(store, checkpoint.artifact_prefix, entries, folder.path / "resume")
        except CorruptArtifact:
            continue
        worker_port.record_resume(folder.lease, checkpoint.step)
        return found
    return None
