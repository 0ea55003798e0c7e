"""Jobs, their attempts under a lease, and what an attempt reports. Postgres is the source of truth (P2, P3)."""

from __future__ import annotations

from finetune_hub.jobs.models.attempt import SHARE_OF_DEVICE, Attempt, AttemptState, DeviceUse, StopWish, wait_of_job
from finetune_hub.jobs.models.job import (
    ENDED_JOB_STATES,
    HIGHEST_PRIORITY,
    LOWEST_PRIORITY,
    WAITS,
    DesiredState,
    Job,
    JobDataset,
    JobState,
)
from finetune_hub.jobs.models.reports import Checkpoint, JobEvent, MetricPoint, Publication

__all__ = [
    "ENDED_JOB_STATES",
    "HIGHEST_PRIORITY",
    "LOWEST_PRIORITY",
    "SHARE_OF_DEVICE",
    "WAITS",
    "Attempt",
    "AttemptState",
    "Checkpoint",
    "DesiredState",
    "DeviceUse",
    "Job",
    "JobDataset",
    "JobEvent",
    "JobState",
    "MetricPoint",
    "Publication",
    "StopWish",
    "wait_of_job",
]
