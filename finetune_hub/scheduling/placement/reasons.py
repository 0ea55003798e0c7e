"""Why a job waits, as a sentence: its queue position, what blocks it, which devices are suitable, and until when."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, get_args

from finetune_hub.scheduling.placement.pools import matches, right_kinds
from finetune_hub.scheduling.placement.quotas import Blocked, Quotas
from finetune_hub.scheduling.placement.situation import IMPORTS, Device, Situation, TeamShare, WaitingJob
from finetune_hub.spec.sizes import size_in_words

WaitCode = Literal["devices", "no_device"] | Blocked
WAIT_CODES: list[str] = ["devices", "no_device", *get_args(Blocked)]
NO_DEVICE: WaitCode = "no_device"
# What is far off is rounded, so that a start does not rewrite ten thousand reasons.
EXACT_PLACES = 100
SOON_SECONDS = 6 * 3600
ROUNDED_SECONDS = {True: 300, False: 3600}  # Whether the start is soon → rounding step.
LONGEST_LIST = 3
NO_WORKER = "No worker has joined yet. Start one with `finetune-hub up`."
ALL_DRAINED = "Every worker is drained. No new job starts until an admin resumes one on the Workers page."
NONE_FIT = "No worker can take jobs: each one is offline, unhealthy or drained. See the Workers page."
NONE_MAY = (
    "It needs one of the hub's own workers, because invited workers may not add base models and datasets. "
    "Start one next to the hub."
)


@dataclass(frozen=True, slots=True)
class Wait:
    """Why a job waits."""

    code: WaitCode
    place: int
    """Position in the queue; 1 is next."""
    sentence: str
    expected_start: float | None
    """Unix seconds, rounded up to five minutes, or to an hour if it is not soon; None: unknown."""


class Reasons:
    """The reasons of one pass; text that many jobs share is built once.

    Args:
        quotas: the quotas after everything that starts in this pass has been charged.
        lent: the devices of the jobs that start in this pass.
    """

    def __init__(self, situation: Situation, quotas: Quotas, lent: Iterable[int]) -> None:
        self._situation = situation
        self._busy = {*lent, *(device for run in situation.runs for device in run.device_ids)}
        self._in_use = dict(quotas.in_use)
        self._held = {team.team_id: quotas.devices_held(team.team_id) for team in situation.teams}
        self._hours_left = {team.team_id: quotas.hours_left(team.team_id) for team in situation.teams}
        self._teams = quotas.teams
        self._told: dict[tuple[object, ...], str] = {}

    def wait(self, job: WaitingJob, place: int, code: WaitCode, start: float) -> Wait:
        """Return why one job waits.

        Args:
            start: when it is expected to start; infinity: unknown.
        """
        match code:
            case "no_device":
                return Wait(code, place, self._once(job, self._say_what_is_missing), None)
            case "more_than_quota":
                return Wait(code, place, _say_more_than_quota(job, self._teams[job.team_id]), None)
            case "team_devices" | "team_hours":
                why = self._say_quota(job, code)
            case "devices":
                why = self._once(job, self._say_kept if place == 1 else self._say_busy)
        now = self._situation.now
        expected = None if math.isinf(start) else _rounded_up(start, now)
        return Wait(code, place, f"{_say_place(place)}: {why}{_say_start(expected, now)}", expected)

    def _once(self, job: WaitingJob, say: Callable[[WaitingJob], str]) -> str:
        asked = (job.devices, job.memory_bytes, job.wish, job.labels, job.prefers_cpu, job.closed_devices)
        key = (say.__name__, *asked)
        if key not in self._told:
            self._told[key] = say(job)
        return self._told[key]

    # ---- devices

    def _say_kept(self, job: WaitingJob) -> str:
        return self._say_devices(job, "free and reserved for this job until enough are free")

    def _say_busy(self, job: WaitingJob) -> str:
        few = "too few on one worker, or " if job.devices > 1 else ""
        return self._say_devices(job, f"free, but {few}reserved for jobs ahead")

    def _say_devices(self, job: WaitingJob, free_ones_are: str) -> str:
        """Return `it needs a device with 18.2 GB, and all 8 suitable devices (NVIDIA L4) are busy.` or the like."""
        would_do = [device for device in self._would_do(job) if not device.away]
        busy = sum(device.device_id in self._busy for device in would_do)
        needs, count = _needs(job), len(would_do)
        noun = f"suitable {_noun(would_do)} ({names_of(would_do)})" if needs else _noun(would_do)
        if busy < count:
            return f"{needs}of the {count} {noun}, {count - busy} {_are(count - busy)} {free_ones_are}."
        return f"{needs}{'the only' if count == 1 else f'all {count}'} {noun} {_are(count)} busy."

    def _would_do(self, job: WaitingJob) -> list[Device]:
        found = [device for device in self._situation.devices if _fits(job, device)]
        kinds = right_kinds(job, {device.kind for device in found})
        return [device for device in found if device.kind in kinds]

    def _say_what_is_missing(self, job: WaitingJob) -> str:
        """Return what the job needs that no device or worker can provide now."""
        devices = self._situation.devices
        if not devices:
            return NO_WORKER
        if all(device.away for device in devices):
            return ALL_DRAINED if {device.away for device in devices} == {"drained"} else NONE_FIT
        would_do = self._would_do(job)
        if not would_do:
            return _say_what_does_not_match(job, devices)
        most = _most_on_one_worker(would_do)
        if most < job.devices:
            return (
                f"It needs {job.devices} devices on one worker, and the largest suitable worker has {most}. "
                "Lower `runtime.gpus`."
            )
        gone = [device for device in would_do if device.away]
        states = sorted({f"{device.worker} is {device.away}" for device in gone})
        return f"The suitable devices ({names_of(gone)}) take no new jobs at the moment: {_listed(states)}."

    # ---- quotas

    def _say_quota(self, job: WaitingJob, code: Literal["team_devices", "team_hours"]) -> str:
        team = self._teams[job.team_id]
        if code == "team_devices":
            in_use = self._in_use.get(team.team_id, 0)
            ahead = self._held[team.team_id] - in_use
            return (
                f"team {team.name} uses {in_use} of the {team.max_devices} devices that its quota allows at a time"
                f"{f', {ahead} more are reserved for its jobs ahead' if ahead else ''}"
                f"{f', and this job needs {job.devices}' if job.devices > 1 else ''}."
            )
        left = max(0.0, self._hours_left[team.team_id])
        wants = "" if job.hours is None else f", and this job is expected to take {job.hours:.1f}"
        return (
            f"after its jobs ahead, team {team.name} has {left:.1f} of its {team.max_hours:g} device hours left this "
            f"month{wants}."
        )


def names_of(devices: Iterable[Device]) -> str:
    """Return the distinct names of the devices."""
    return _listed(sorted({device.name for device in devices}))


def _say_more_than_quota(job: WaitingJob, team: TeamShare) -> str:
    if team.max_devices is not None and job.devices > team.max_devices:
        wants = f"It needs {job.devices} devices, and the quota of team {team.name} allows {team.max_devices} at a time"
        return f"{wants}. Lower `runtime.gpus` or ask an admin for a larger quota."
    return (
        f"It is expected to take {job.hours or 0:.1f} device hours, and the quota of team {team.name} allows "
        f"{team.max_hours:g} per month. Make it shorter or ask an admin for a larger quota."
    )


def _say_what_does_not_match(job: WaitingJob, devices: Sequence[Device]) -> str:
    """Return the first of wish, labels, memory and trust that rules out every device."""
    anywhere = replace(job, barred_devices=frozenset())
    any_memory = replace(anywhere, memory_bytes=0)
    if not _some(replace(any_memory, labels=frozenset()), devices):
        return f"No device matches `runtime.device: {job.wish}`. The hub has {names_of(devices)}."
    alike = _some(any_memory, devices)
    if not alike:
        return f"No worker with such a device has the labels that the job requires: {', '.join(sorted(job.labels))}."
    if not _some(anywhere, devices):
        largest = max(alike, key=lambda device: device.memory_bytes)
        return (
            f"It needs a device with {size_in_words(job.memory_bytes)}, and the largest ({largest.name}) has "
            f"{size_in_words(largest.memory_bytes)}. `finetune-hub plan` shows what would fit."
        )
    return NONE_MAY


def _fits(job: WaitingJob, device: Device) -> bool:
    facts = (device.kind, device.name, device.memory_bytes, device.labels)
    return device.device_id not in job.closed_devices and matches(job, *facts)


def _some(job: WaitingJob, devices: Sequence[Device]) -> list[Device]:
    return [device for device in devices if _fits(job, device)]


def _needs(job: WaitingJob) -> str:
    """Return what a job requires of its devices; empty if any device will do."""
    memory = f" with {size_in_words(job.memory_bytes)}" if job.memory_bytes else ""
    if job.devices > 1:
        return f"it needs {job.devices} devices on one worker{memory and memory + ' each'}, and "
    return f"it needs a device{memory}, and " if memory or job.wish or job.labels else ""


def _most_on_one_worker(devices: Iterable[Device]) -> int:
    """Return the largest number of identical devices on one worker."""
    counts: dict[tuple[object, ...], int] = {}
    for device in devices:
        key = (device.worker_id, device.kind, device.name, device.memory_bytes, device.is_shared)
        counts[key] = counts.get(key, 0) + 1
    return max(counts.values(), default=0)


def _listed(words: Sequence[str]) -> str:
    more = len(words) - LONGEST_LIST
    return ", ".join(words[:LONGEST_LIST]) + (f" and {more} more" if more > 0 else "")


def _noun(devices: Sequence[Device]) -> str:
    plural = "" if len(devices) == 1 else "s"
    return f"{'import slot' if devices[0].kind == IMPORTS else 'device'}{plural}"


def _are(count: int) -> str:
    return "is" if count == 1 else "are"


def _say_place(place: int) -> str:
    if place == 1:
        return "Next in the queue"
    number = f"Number {place}" if place <= EXACT_PLACES else f"About number {round(place, -2):,}"
    return f"{number} in the queue"


def _rounded_up(moment: float, now: float) -> float:
    step = ROUNDED_SECONDS[moment < now + SOON_SECONDS]
    return math.ceil(moment / step) * step


def _say_start(moment: float | None, now: float) -> str:
    if moment is None:
        return " Its start time is unknown, because the jobs before it have no time estimate."
    at, today = datetime.fromtimestamp(moment, UTC), datetime.fromtimestamp(now, UTC)
    day = "" if at.date() == today.date() else f" on {at.day} {at:%B}"
    return f" It is expected to start{day} around {at:%H:%M} UTC."
