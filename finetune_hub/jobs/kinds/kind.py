"""A kind of job: the home of all that is true of trainings alone, or of evaluations, or of imports (P9).

Whoever adds one writes a class beside those here, its line in `registry.py`, its mirror in `workers/kinds/`, which says
what an attempt runs and publishes, and the template that shows its result. Nothing else asks which kind a job is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from finetune_hub.spec.compatibility import Compatibility
from finetune_hub.spec.part import Part
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.refusal import Refusal

if TYPE_CHECKING:
    from finetune_hub.accounts.models import Team, User
    from finetune_hub.jobs.models import Job


@dataclass(frozen=True)
class Ending:
    """How a job without a device ended."""

    result: dict[str, Any]
    failed: Failed | None = None
    """What went wrong; None: it succeeded."""


class Kind:
    """One kind of job. What is set here suits one that runs once, on a device, and publishes only its result."""

    name: ClassVar[str]
    """What the database, the API and the command line call it; at most 10 letters."""
    label: ClassVar[str]
    """What pages call it: `Dataset import`."""
    noun: ClassVar[str]
    """It in a sentence, with its article: `a training`."""

    options: ClassVar[type[Part] | None] = None
    """What submits one. A page, an address of the API and `finetune-hub jobs submit` are made from it; None: the kind
    has its own."""

    needs_device: ClassVar[bool] = True
    """Else it has no attempts and no worker: control starts it when its turn comes, and asks `advance` from then on."""
    needs_gpu: ClassVar[bool] = True
    """Else it is placed on a CPU, or beside a worker's GPUs, none of which it holds."""
    needs_trusted_worker: ClassVar[bool] = False
    """It reads secrets of its team or adds to its catalog, which a worker with a database role of its own may not."""
    goes_on_from_checkpoints: ClassVar[bool] = False
    """Little is lost when it is stopped, so that others may preempt it."""
    runs_until_told: ClassVar[bool] = False
    """It has no end of its own, as a server: asked to end, it has succeeded."""

    result_template: ClassVar[str] = "jobs/kinds/result.html"
    """Shows `job.result` on the job's page once it has succeeded."""
    page_template: ClassVar[str] = "jobs/detail.html"
    """The job's page."""

    def reads(self, job: Job) -> bool:
        """Whether all that the job's spec names is here; a plugin's method or objective may have gone."""
        return True

    def subject(self, job: Job) -> str:
        """What the job makes or measures, by name; needs what `for_list` fetches."""
        return job.over.name

    def submit(self, team: Team, user: User, options: Any, *, idempotency_key: str | None = None) -> Job:
        """Queue a job with these options.

        Raises:
            Refusal: it cannot be done, or the key was used before for something else.
        """
        raise NotImplementedError(f"{type(self).__name__} has options, and no way to submit them.")

    def check(self, job: Job) -> str:
        """The last look before the queue, in the control process.

        Returns:
            What was seen, in a sentence; empty: nothing is worth telling.

        Raises:
            InvalidDataset, InvalidChatTemplate: its rows do not fit its base model.
            ArtifactError: a file is gone.
        """
        return ""

    def expected_seconds(self, job: Job) -> float | None:
        """How long the whole job takes on the device that suits it best; None: nobody knows."""
        return job.attempts.model.objects.usual_seconds(self.name)

    def memory_bytes_needed(self, job: Job) -> int | None:
        """What its device must have, adjustments included; None: not known."""
        return job.memory_bytes_needed

    def max_duration_seconds(self, job: Job) -> float | None:
        """After how long it is asked to stop; None: never. Its spec has it as `runtime.max_duration`, too."""
        return None

    def shrink(self, job: Job) -> dict[str, Any] | None:
        """Changes of its spec, by place, with which it needs less memory; None: there are none, or it wants none."""
        return None

    def advance(self, job: Job) -> Ending | None:
        """What has become of a running job without a device, asked at each round and whenever one of its children ends.

        It runs in the transaction that holds the job's row lock, and may submit children (`create_job(parent=job)`).

        Returns:
            How it ended; None: it has not.
        """
        raise NotImplementedError(f"{type(self).__name__} needs no device, and does not say when it ends.")

    def after_end(self, job: Job, *, succeeded: bool) -> None:
        """What follows its end, in the same transaction, which holds the job's row lock."""

    def before_retry(self, job: Job) -> None:
        """What a retry needs, in the same transaction, which holds the job's row lock.

        Raises:
            Refusal: it cannot be retried now.
        """

    def spec_to_submit(self, job: Job) -> dict[str, Any] | None:
        """The document that submits its like, as recipes have it; None: it was not submitted with one."""
        return None

    def compatibility(self, job: Job) -> list[Compatibility] | None:
        """Which programs will be able to serve what it trains; None: it trains nothing."""
        return None

    def page_context(self, job: Job) -> dict[str, Any]:
        """What its page's templates ask beside what every job's page has."""
        return {}


KINDS: dict[str, Kind] = {}
"""By name. `registry.py` fills it as the app starts, so that models need not import the kinds, which import them."""


class MissingKind(Kind):
    """Stands for a kind that is not here any more, or of which a method or an objective is not: its jobs are shown."""

    name, label, noun = "missing", "Job of a missing plugin", "a job of a plugin that is not here"

    def subject(self, job: Job) -> str:
        return str(job.spec.get("adapter_name") or job.base_model or job.pk)

    def check(self, job: Job) -> str:
        raise Refusal(
            "missing_plugin",
            f"What {job.pk} needs comes from a plugin that the hub does not have.",
            "Ask whoever runs the hub to name it in `FINETUNE_HUB_PLUGINS` again, then retry the job.",
        )

    def expected_seconds(self, job: Job) -> float | None:
        return None


MISSING_KIND = MissingKind()
