"""A kind of job: everything that is specific to trainings, to evaluations or to imports (P9).

To add one, write a class next to the others here, its line in `registry.py`, its counterpart in `workers/kinds/`, which
says what an attempt runs and publishes, and the template for its result. No other code checks which kind a job is.
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
    """One kind of job. The defaults suit a kind that runs once, on a device, and publishes only its result."""

    name: ClassVar[str]
    """Its name in the database, the API and the command line; at most 10 letters."""
    label: ClassVar[str]
    """Its name on pages: `Dataset import`."""
    noun: ClassVar[str]
    """Its name in a sentence, with its article: `a training`."""

    options: ClassVar[type[Part] | None] = None
    """The options for submitting one. A page, an API endpoint and `finetune-hub jobs submit` are generated from them;
    None: the kind has its own."""

    needs_device: ClassVar[bool] = True
    """If False, it has no attempts and no worker: control starts it, and calls `advance` from then on."""
    needs_gpu: ClassVar[bool] = True
    """If False, it runs in a worker's import slot and holds no device."""
    needs_trusted_worker: ClassVar[bool] = False
    """It reads its team's secrets or adds to its catalog, which a worker with its own database role may not."""
    goes_on_from_checkpoints: ClassVar[bool] = False
    """It resumes from checkpoints, so stopping it loses little and other jobs may preempt it."""
    runs_until_told: ClassVar[bool] = False
    """It runs until it is stopped, like a server: when asked to end, it succeeds."""

    result_template: ClassVar[str] = "jobs/kinds/result.html"
    """Template that shows `job.result` on the job's page once it has succeeded."""
    page_template: ClassVar[str] = "jobs/detail.html"
    """Template of the job's page."""

    def reads(self, job: Job) -> bool:
        """Return whether everything in the job's spec is available; a plugin's method or objective may be gone."""
        return True

    def subject(self, job: Job) -> str:
        """Return the name of what the job creates or measures; needs what `for_list` fetches."""
        return job.over.name

    def submit(self, team: Team, user: User, options: Any, *, idempotency_key: str | None = None) -> Job:
        """Queue a job with these options.

        Raises:
            Refusal: it is not possible, or the key was already used for something else.
        """
        raise NotImplementedError(f"{type(self).__name__} has options, but does not implement `submit`.")

    def check(self, job: Job) -> str:
        """Check the job before it is queued, in the control process.

        Returns:
            A sentence on what was found; empty: nothing to report.

        Raises:
            InvalidDataset, InvalidChatTemplate: its rows do not fit its base model.
            ArtifactError: a file is missing.
        """
        return ""

    def expected_seconds(self, job: Job) -> float | None:
        """Return how long the whole job takes on its most suitable device; None: unknown."""
        return job.attempts.model.objects.usual_seconds(self.name)

    def memory_bytes_needed(self, job: Job) -> int | None:
        """Return the memory that its device must have, including adjustments; None: unknown."""
        return job.memory_bytes_needed

    def max_duration_seconds(self, job: Job) -> float | None:
        """Return after how long it is asked to stop; None: never. Its spec also has it as `runtime.max_duration`."""
        return None

    def shrink(self, job: Job) -> dict[str, Any] | None:
        """Return changes of its spec, by field path, to need less memory; None: there are none or none is allowed."""
        return None

    def advance(self, job: Job) -> Ending | None:
        """Advance a running job without a device. Called in each round and whenever one of its children ends.

        It runs in the transaction that holds the job's row lock, and may submit children (`create_job(parent=job)`).

        Returns:
            How it ended; None: it still runs.
        """
        raise NotImplementedError(f"{type(self).__name__} needs no device, but does not implement `advance`.")

    def after_end(self, job: Job, *, succeeded: bool) -> None:
        """Do what follows its end, in the same transaction, which holds the job's row lock."""

    def before_retry(self, job: Job) -> None:
        """Prepare a retry, in the same transaction, which holds the job's row lock.

        Raises:
            Refusal: it cannot be retried now.
        """

    def spec_to_submit(self, job: Job) -> dict[str, Any] | None:
        """Return the document that would submit a copy, as in recipes; None: it was not submitted with one."""
        return None

    def compatibility(self, job: Job) -> list[Compatibility] | None:
        """Return which programs can serve what it trains; None: it trains nothing."""
        return None

    def page_context(self, job: Job) -> dict[str, Any]:
        """Return what its page's templates need in addition to the context of every job's page."""
        return {}


KINDS: dict[str, Kind] = {}
"""By name. `registry.py` fills it at startup, which avoids a circular import of models and kinds."""


class MissingKind(Kind):
    """Placeholder for a kind that is missing or lacks a method or an objective, so that its jobs can be shown."""

    name, label, noun = "missing", "Job of a missing plugin", "a job of a missing plugin"

    def subject(self, job: Job) -> str:
        return str(job.spec.get("adapter_name") or job.base_model or job.pk)

    def check(self, job: Job) -> str:
        raise Refusal(
            "missing_plugin",
            f"{job.pk} needs a plugin that the hub does not have.",
            "Ask the hub's operator to add it to `FINETUNE_HUB_PLUGINS` again, then retry the job.",
        )

    def expected_seconds(self, job: Job) -> float | None:
        return None


MISSING_KIND = MissingKind()
