"""Three kinds of job: one on a device, one that is the sum of its children, and one that serves until it is told."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from finetune_hub.accounts.models import Team, User
from finetune_hub.catalog.choices import find_dataset_version
from finetune_hub.jobs.kinds.kind import KINDS, Ending, Kind
from finetune_hub.jobs.models import Job, JobState
from finetune_hub.jobs.submission import create_job
from finetune_hub.spec.part import Part
from finetune_hub.spec.problem import Failed
from finetune_hub.spec.references import DatasetName, split_version
from finetune_hub.spec.training import DatasetChoice


class TallyOptions(Part):
    """Count how often a letter stands in a dataset."""

    dataset: DatasetName = Field(description="Where to count.")
    letter: str = Field("e", min_length=1, max_length=1)


class Tally(Kind):
    name, label, noun = "tally", "Tally", "a tally"
    result_template = "made_up/tally.html"
    options = TallyOptions
    needs_gpu = False

    def subject(self, job: Job) -> str:
        return f"How many {job.spec['letter']}?"

    def submit(
        self,
        team: Team,
        user: User,
        options: TallyOptions,
        *,
        idempotency_key: str | None = None,
        parent: Job | None = None,
    ) -> Job:
        name, number = split_version(options.dataset)
        return create_job(
            Tally,
            team=team,
            created_by=user,
            spec=options.model_dump(),
            choices=[(find_dataset_version(team, DatasetChoice(name=name, version=number)), 1.0)],
            idempotency_key=idempotency_key,
            parent=parent,
        )


class CensusOptions(Part):
    """Count several letters, each by a job of its own."""

    dataset: DatasetName
    letters: str = Field(min_length=1, max_length=10)


class Census(Kind):
    name, label, noun = "census", "Census", "a census"
    options = CensusOptions
    needs_device = False

    def subject(self, job: Job) -> str:
        return f"How many of {job.spec['letters']}?"

    def submit(self, team: Team, user: User, options: CensusOptions, *, idempotency_key: str | None = None) -> Job:
        return create_job(
            Census, team=team, created_by=user, spec=options.model_dump(), idempotency_key=idempotency_key
        )

    def advance(self, job: Job) -> Ending | None:
        children = list(job.children.order_by("created_at"))
        if not children:
            for letter in job.spec["letters"]:
                options = TallyOptions(dataset=job.spec["dataset"], letter=letter)
                Tally().submit(job.team, job.created_by, options, parent=job)
            return None
        if not all(child.has_ended for child in children):
            return None
        counts: dict[str, Any] = {child.spec["letter"]: (child.result or {}).get("count") for child in children}
        failed = [child for child in children if child.state != JobState.SUCCEEDED]
        if failed:
            return Ending(counts, Failed("dependency", f"{len(failed)} of its jobs failed.", "Look at them."))
        return Ending(counts)


class HeraldOptions(Part):
    """Say a word to whoever asks."""

    word: str = Field("hail", min_length=1, max_length=40)


class Herald(Kind):
    name, label, noun = "herald", "Herald", "a herald"
    options = HeraldOptions
    needs_gpu = False
    runs_until_told = True

    def subject(self, job: Job) -> str:
        return str(job.spec["word"])

    def submit(self, team: Team, user: User, options: HeraldOptions, *, idempotency_key: str | None = None) -> Job:
        return create_job(
            Herald, team=team, created_by=user, spec=options.model_dump(), idempotency_key=idempotency_key
        )


KINDS.update({kind.name: kind() for kind in (Tally, Census, Herald)})
