"""What an attempt of one kind of job does on a worker: the counterpart of `finetune_hub.jobs.kinds`."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from django.conf import settings
from pydantic import BaseModel

from finetune_hub.fleet.models import DeviceKind
from finetune_hub.jobs.models import Attempt, Job
from finetune_hub.jobs.worker_port import Lease
from finetune_hub.spec.files import FileEntry
from workers.attempt_folder import AttemptFolder
from workers.inventory import threads_of_cpu_device
from workers.supervisor import WAIT

ENGINE = "finetune_hub.engine"


@dataclass
class Start:
    """What an attempt starts with, and the commands that it runs one after another."""

    job: Job
    folder: AttemptFolder
    device: Literal["cpu", "cuda"]
    threads: int | None
    """CPU threads that it may use; None: all."""
    environment: dict[str, str]
    """Environment variables in addition to the worker's own: commands see only the attempt's devices."""
    argv: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, attempt: Attempt, folder: AttemptFolder) -> Start:
        """Start on the devices that the attempt holds; with several GPUs, each rank uses one of them, in order."""
        gpus = attempt.devices.filter(kind=DeviceKind.CUDA).order_by("index").values_list("index", flat=True)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        if gpus:
            return cls(attempt.job, folder, "cuda", None, visible)
        threads = threads_of_cpu_device(settings.CPU_DEVICES) if settings.CPU_DEVICES > 1 else None
        return cls(attempt.job, folder, "cpu", threads, visible)

    def add_command(self, module: str, command: str, document: BaseModel, *, ahead: bool = False) -> None:
        """Add a command to run.

        Args:
            document: the command's input, written to the attempt's folder.
            ahead: start it together with the previous command, so that its libraries are already loaded.
        """
        file = self.folder.path / f"{command}.json"
        file.write_text(document.model_dump_json(indent=2))
        self.argv.append([sys.executable, "-m", module, command, *([WAIT] if ahead else []), str(file)])


@dataclass(frozen=True)
class Finish:
    """The result of an attempt, and access to the artifact store."""

    lease: Lease
    job: Job
    folder: AttemptFolder
    result: dict[str, Any]
    """What its last command wrote."""
    store_output: Callable[[str], tuple[str, list[FileEntry]]]
    """Put a folder of the output into the store; returns its prefix and manifest."""


class Work(ABC):
    """One kind's part of an attempt; the defaults suit a kind that needs no disk space and leaves no files behind."""

    kind: ClassVar[str]
    """The name of the `Kind` whose attempts these are."""

    def bytes_needed(self, job: Job) -> int | None:
        """Return the free disk space without which it does not start; None: unknown."""
        return None

    @abstractmethod
    def prepare(self, start: Start) -> None:
        """Fetch what the attempt needs and add its commands.

        Raises:
            ArtifactError: a file is not available, or does not match its manifest.
            LeaseLost: it took too long.
            Refusal: it cannot start.
        """

    @abstractmethod
    def publish(self, finish: Finish) -> None:
        """Store the attempt's output and publish it, in one fenced transaction that ends attempt and job.

        Raises:
            LeaseLost: the attempt is no longer ours.
            ArtifactError: the store cannot be written.
            Refusal: the output is not accepted.
        """

    def clean_up(self, job: Job) -> None:  # noqa: B027 (a kind may leave nothing behind)
        """Delete what no other attempt needs, once the attempt has ended."""


WORK: dict[str, Work] = {}
"""By the name of the kind. `registry.py` fills it."""
