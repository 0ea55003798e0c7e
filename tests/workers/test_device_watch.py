"""Devices' health, with a stand-in for NVML: this machine has no GPU, so `FakeNvml` answers as pynvml's functions do.

Its answers have the shapes and the errors of nvidia-ml-py 12; what a real driver counts is not tested here.
"""

# ruff: noqa: N802, N815  (the names are NVML's)

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pynvml
import pytest
from django.urls import reverse

from finetune_hub.accounts.models import AuditEvent, Role
from finetune_hub.fleet.actions import release_device
from finetune_hub.fleet.models import Device, DeviceKind, DeviceSample, Worker
from finetune_hub.jobs import worker_port
from finetune_hub.jobs.models import Job
from finetune_hub.jobs.scheduler import schedule_pass
from finetune_hub.jobs.worker_port import DeviceReading
from tests.dashboard.conftest import signed_in
from tests.factories import make_job, make_team, make_user, make_worker
from workers.device_watch import DeviceWatch, Processors, is_stranger

NOT_SUPPORTED = pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)


@dataclass
class Gpu:
    """What one GPU answers; an exception is raised instead."""

    ecc_errors: Any = 0
    remapped: Any = (0, 0, 0, 0)
    retired_pending: Any = 0
    utilisation: Any = 42
    temperature: Any = 61
    pids: list[int] = field(default_factory=list)
    memory: Any = 3 * 2**30


class FakeNvml:
    """The functions of pynvml that the watch calls. The handle of a GPU is its index."""

    def __init__(self, *gpus: Gpu, has_driver: bool = True) -> None:
        self.gpus, self.has_driver, self.xids = gpus, has_driver, []
        self.registered: list[int] = []

    NVMLError = pynvml.NVMLError
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED
    NVML_VOLATILE_ECC = pynvml.NVML_VOLATILE_ECC
    NVML_TEMPERATURE_GPU = pynvml.NVML_TEMPERATURE_GPU
    nvmlEventTypeXidCriticalError = pynvml.nvmlEventTypeXidCriticalError

    def nvmlInit(self) -> None:
        if not self.has_driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_LIBRARY_NOT_FOUND)

    def nvmlDeviceGetCount(self) -> int:
        if not self.has_driver:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_UNINITIALIZED)
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetIndex(self, handle: int) -> int:
        return handle

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:
        return SimpleNamespace(used=answer(self.gpus[handle].memory), total=80 * 2**30)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:
        return SimpleNamespace(gpu=answer(self.gpus[handle].utilisation), memory=0)

    def nvmlDeviceGetTemperature(self, handle: int, sensor: int) -> Any:
        return answer(self.gpus[handle].temperature)

    def nvmlSystemGetDriverVersion(self) -> str:
        return "570.86.15"

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[Any]:
        return [SimpleNamespace(pid=pid, usedGpuMemory=2**30) for pid in self.gpus[handle].pids]

    def nvmlDeviceGetTotalEccErrors(self, handle: int, kind: int, counter: int) -> Any:
        assert (kind, counter) == (self.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, self.NVML_VOLATILE_ECC)
        return answer(self.gpus[handle].ecc_errors)

    def nvmlDeviceGetRemappedRows(self, handle: int) -> Any:
        return answer(self.gpus[handle].remapped)

    def nvmlDeviceGetRetiredPagesPendingStatus(self, handle: int) -> Any:
        return answer(self.gpus[handle].retired_pending)

    def nvmlEventSetCreate(self) -> object:
        return object()

    def nvmlDeviceRegisterEvents(self, handle: int, kinds: int, events: object) -> None:
        self.registered.append(handle)

    def nvmlEventSetWait_v2(self, events: object, timeout_ms: int) -> Any:
        assert timeout_ms == 0
        if not self.xids:
            raise pynvml.NVMLError(pynvml.NVML_ERROR_TIMEOUT)
        index, xid = self.xids.pop(0)
        return SimpleNamespace(device=index, eventData=xid)


def answer(value: Any) -> Any:
    if isinstance(value, Exception):
        raise value
    return value


def only_reading(gpu: Gpu) -> DeviceReading:
    [reading] = DeviceWatch(FakeNvml(gpu)).read()
    return reading


def test_pynvml_has_all_that_the_fake_has() -> None:
    """Else the fake would prove nothing."""
    names = [name for name in vars(FakeNvml) if not name.startswith("_")]
    assert len(names) > 15
    assert [name for name in names if not hasattr(pynvml, name)] == []


def test_a_healthy_gpu() -> None:
    assert only_reading(Gpu()) == DeviceReading(
        DeviceKind.CUDA, 0, 0.42, 3 * 2**30, 61, driver="570.86.15", other_processes=0, fault=""
    )


def test_what_a_consumer_card_does_not_know_is_no_fault() -> None:
    unknown = Gpu(NOT_SUPPORTED, NOT_SUPPORTED, NOT_SUPPORTED, NOT_SUPPORTED, NOT_SUPPORTED)
    reading = only_reading(unknown)
    assert (reading.fault, reading.utilisation, reading.temperature_celsius) == ("", None, None)


@pytest.mark.parametrize(
    ("gpu", "words"),
    [
        (Gpu(ecc_errors=3), "3 uncorrectable ECC errors"),
        (Gpu(remapped=(0, 1, 0, 1)), "could not be remapped"),
        (Gpu(remapped=(0, 1, 1, 0)), "needs a reset"),
        (Gpu(retired_pending=1), "need a reboot"),
        (Gpu(memory=pynvml.NVMLError(pynvml.NVML_ERROR_GPU_IS_LOST)), "The driver cannot reach it"),
    ],
)
def test_faults_are_told_in_words_with_what_to_do(gpu: Gpu, words: str) -> None:
    fault = only_reading(gpu).fault
    assert words in fault
    assert "nvidia-smi --gpu-reset" in fault


def test_rows_remapped_in_time_are_no_fault() -> None:
    assert only_reading(Gpu(remapped=(2, 1, 0, 0))).fault == ""


def test_an_xid_of_the_hardware_is_a_fault_of_its_gpu_from_then_on() -> None:
    nvml = FakeNvml(Gpu(), Gpu())
    watch = DeviceWatch(nvml)
    assert [reading.fault for reading in watch.read()] == ["", ""]
    assert nvml.registered == [0, 1]
    nvml.xids = [(0, 31), (1, 79)]  # A page fault of an application; and a GPU that is gone.
    for _ in range(2):
        first, second = watch.read()
        assert first.fault == ""
        assert second.fault.startswith("It reported Xid 79: it fell off the bus.")


def test_without_a_driver_the_processors_are_read() -> None:
    [reading] = DeviceWatch(FakeNvml(has_driver=False)).read()
    assert reading.kind == DeviceKind.CPU


def test_a_driver_that_is_loaded_anew_is_found_again() -> None:
    nvml = FakeNvml(Gpu())
    watch = DeviceWatch(nvml)
    assert len(watch.read()) == 1
    nvml.has_driver = False
    assert watch.read() == []
    nvml.has_driver = True
    assert [reading.kind for reading in watch.read()] == [DeviceKind.CUDA]
    assert nvml.registered == [0, 0]


def test_processors(tmp_path: Path) -> None:
    """Of 100 ticks between two readings 25 were idle."""
    (tmp_path / "meminfo").write_text("MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 400 kB\n")
    (tmp_path / "stat").write_text("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 …\n")
    processors = Processors(tmp_path)
    (tmp_path / "stat").write_text("cpu  150 5 110 720 105 5 5 0 0 0\n")
    reading = processors.read()
    assert (reading.utilisation, reading.memory_used_bytes) == (0.75, 600 * 1024)
    assert Processors(tmp_path / "none").read().utilisation is None


def test_who_is_a_stranger_on_a_gpu() -> None:
    """A trainer descends from its supervisor; another's process does not; one that is not seen is nobody's."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert not is_stranger(child.pid, {child.pid})
        assert not is_stranger(child.pid, {os.getpid()})
        assert is_stranger(child.pid, set()) or os.getppid() == 0
        assert child.stdin is not None
        child.stdin.close()
    assert not is_stranger(2**22 + 1, set())


# ---- in the service


@pytest.fixture
def worker(db: None) -> Worker:
    worker = make_worker("gpu-1", devices=0)
    for index in range(2):
        worker.devices.create(index=index, kind=DeviceKind.CUDA, name="NVIDIA H100", memory_bytes=80 * 2**30)
    return worker


def record(worker: Worker, *gpus: Gpu) -> None:
    worker_port.record_readings(worker, DeviceWatch(FakeNvml(*gpus)).read())


def test_a_faulty_device_gets_no_job_until_an_admin_releases_it(worker: Worker) -> None:
    alice = make_user("alice")
    team = make_team(alice, role=Role.ADMIN)
    record(worker, Gpu(), Gpu(ecc_errors=1))
    jobs = [make_job(team), make_job(team)]
    assert schedule_pass() == 1
    assert jobs[0].attempts.get().devices.get().index == 0
    page = signed_in(alice).get(reverse("workers")).content.decode()
    assert "1 uncorrectable ECC errors" in page
    record(worker, Gpu(), Gpu())  # After a reset it tells of nothing, and waits for somebody's word.
    assert schedule_pass() == 0
    bad = worker.devices.get(index=1)
    for _ in range(2):
        release_device(bad, actor=alice)
    assert AuditEvent.objects.filter(verb="device_released").count() == 1
    assert schedule_pass() == 1
    assert Job.objects.get(pk=jobs[1].pk).attempts.get().devices.get() == bad


def test_a_fault_that_stays_puts_it_back(worker: Worker) -> None:
    record(worker, Gpu(), Gpu(ecc_errors=1))
    release_device(worker.devices.get(index=1), actor=make_user(is_staff=True))
    record(worker, Gpu(), Gpu(ecc_errors=2))
    assert "had 2 uncorrectable" in worker.devices.get(index=1).quarantine_reason


def test_readings_are_kept_over_time_and_shown(worker: Worker) -> None:
    for busy in (10, 60):
        record(worker, Gpu(utilisation=busy, temperature=70, pids=[os.getpid()]), Gpu())
    device = worker.devices.get(index=0)
    assert [sample.utilisation for sample in DeviceSample.objects.filter(device=device)] == [0.1, 0.6]
    assert (device.driver, device.temperature_celsius) == ("570.86.15", 70)
    page = " ".join(signed_in(make_user()).get(reverse("workers")).content.decode().split())
    for words in ("driver 570.86.15", "70 °C", "60% busy", "1 other process"):
        assert words in page


def test_a_device_that_is_gone_is_not_read(worker: Worker) -> None:
    Device.objects.filter(worker=worker, index=1).update(present=False)
    record(worker, Gpu(), Gpu(ecc_errors=1))
    assert not Device.objects.exclude(quarantined_at=None).exists()
