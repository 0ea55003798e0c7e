"""What an attempt of one kind of job does on a worker: the mirror of `finetune_hub.jobs.kinds`."""

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
    """What an attempt starts with, and the commands that it is to run in turn."""

    job: Job
    folder: AttemptFolder
    device: Literal["cpu", "cuda"]
    threads: int | None
    """CPU threads that it may take; None: all."""
    environment: dict[str, str]
    """What its commands need beside the worker's own: they see the attempt's devices and no other."""
    argv: list[list[str]] = field(default_factory=list)

    @classmethod
    def of(cls, attempt: Attempt, folder: AttemptFolder) -> Start:
        """On the devices that the attempt holds; with several GPUs, its ranks take them in turn."""
        gpus = attempt.devices.filter(kind=DeviceKind.CUDA).order_by("index").values_list("index", flat=True)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, gpus))}
        if gpus:
            return cls(attempt.job, folder, "cuda", None, visible)
        threads = threads_of_cpu_device(settings.CPU_DEVICES) if settings.CPU_DEVICES > 1 else None
        return cls(attempt.job, folder, "cpu", threads, visible)

    def add_command(self, module: str, command: str, document: BaseModel, *, ahead: bool = False) -> None:
        """
        Args:
            document: What the command reads, written beside the attempt's other files.
            ahead: Start it beside the command before it, so that its libraries are loaded when its turn comes.
        """
        file = self.folder.path / f"{command}.json"
        file.write_text(document.model_dump_json(indent=2))
        self.argv.append([sys.executable, "-m", module, command, *([WAIT] if ahead else []), str(file)])


@dataclass(frozen=True)
class Finish:
    """What an attempt ended with, and the way to the artifact store."""

    lease: Lease
    job: Job
    folder: AttemptFolder
    result: dict[str, Any]
    """What its last command wrote."""
    store_output: Callable[[str], tuple[str, list[FileEntry]]]
    """Put a folder of the output into the store; gives where, and its manifest."""


class Work(ABC):
    """One kind's part of an attempt; what is set here suits a kind that needs no room and leaves nothing behind."""

    kind: ClassVar[str]
    """The name of the `Kind` whose attempts these are."""

    def bytes_needed(self, job: Job) -> int | None:
        """Room on the worker's disk, without which it is not begun; None: not known."""
        return None

    @abstractmethod
    def prepare(self, start: Start) -> None:
        """Fetch what the attempt needs and name its commands.

        Raises:
            ArtifactError: a file cannot be had, or is not what its manifest says.
            LeaseLost: it took too long.
            Refusal: it cannot be done as things are.
        """

    @abstractmethod
    def publish(self, finish: Finish) -> None:
        """Store what the attempt made and publish it, in one fenced transaction that ends attempt and job.

        Raises:
            LeaseLost: the attempt is not ours any more.
            ArtifactError: the store cannot be written.
            Refusal: what it made cannot be taken.
        """

    def clean_up(self, job: Job) -> None:  # noqa: B027 (a kind may leave nothing behind)
        """Delete what no other attempt will want, once the attempt has ended."""


WORK: dict[str, Work] = {}
"""By the name of the kind. `registry.py` fills it."""
