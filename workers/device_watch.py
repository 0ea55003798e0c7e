"""The state of this machine's devices: use, temperature and health. GPUs through NVML, CPUs through /proc.

A GPU is faulty, and will be quarantined, if it has had uncorrectable ECC errors since the driver started, if a memory
row could not be remapped or needs a reset to be remapped, if pages need a reboot to be retired, if it reports an Xid
that indicates a hardware problem, or if it has fallen off the bus.
Source: NVIDIA, "GPU Debug Guidelines" and "Xid Errors", r570: which Xids require a reset or a technician. Xids of
applications (13, 31, 43, 45 …) do not count as device faults.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, TypeVar

import pynvml

from finetune_hub.fleet.models import DeviceKind
from finetune_hub.jobs.worker_port import DeviceReading

log = logging.getLogger(__name__)

Answer = TypeVar("Answer")

HARDWARE_XIDS = {
    48: "a double-bit ECC error",
    62: "the micro-controller halted",
    64: "a memory row could not be remapped",
    74: "an NVLink error",
    79: "it fell off the bus",
    95: "an uncontained ECC error",
    119: "its GSP does not respond",
    120: "its GSP failed",
    140: "an unrecovered ECC error",
}
WHAT_TO_DO = "Reset it (`nvidia-smi --gpu-reset`) or reboot the machine. If the error comes back, replace the GPU."
MAX_XIDS_AT_ONCE = 100


class DeviceWatch:
    """Reads all devices of this machine repeatedly. It keeps NVML open to receive Xid events."""

    def __init__(self, nvml: Any = pynvml) -> None:
        self.nvml = nvml
        self.heard_xids: dict[int, int] = {}
        self._events: Any = None
        self._is_open = False
        self._processors = Processors()

    def read(self, ours: Collection[int] = ()) -> list[DeviceReading]:
        """Read each device once.

        Args:
            ours: processes whose descendants on a GPU count as ours.
        """
        if not self._open():
            return [self._processors.read()]
        self._listen()
        count = self._ask(self.nvml.nvmlDeviceGetCount)
        if count is None:
            self._is_open = False  # The driver was reloaded; open NVML again at the next reading.
            return []
        return [self._read_gpu(index, ours) for index in range(count)]

    def _open(self) -> bool:
        """Return whether there is a driver with GPUs; retried at each reading until there is."""
        if not self._is_open:
            try:
                self.nvml.nvmlInit()
            except self.nvml.NVMLError:
                return False
            self._is_open = True
            self._register()
        return True

    def _register(self) -> None:
        """Subscribe to Xid events, if the driver supports it."""
        self._events = self._ask(self.nvml.nvmlEventSetCreate)
        for index in range(self._ask(self.nvml.nvmlDeviceGetCount) or 0):
            handle = self._ask(self.nvml.nvmlDeviceGetHandleByIndex, index)
            if handle is not None and self._events is not None:
                self._ask(
                    self.nvml.nvmlDeviceRegisterEvents, handle, self.nvml.nvmlEventTypeXidCriticalError, self._events
                )

    def _listen(self) -> None:
        """Record hardware Xids since the last reading. A fault remains until this process restarts."""
        if self._events is None:
            return
        for _ in range(MAX_XIDS_AT_ONCE):
            try:
                event = self.nvml.nvmlEventSetWait_v2(self._events, 0)
            except self.nvml.NVMLError:  # A timeout: there are no more events.
                return
            xid, index = int(event.eventData), self._ask(self.nvml.nvmlDeviceGetIndex, event.device)
            log.warning("GPU %s reports Xid %s", index, xid)
            if index is not None and xid in HARDWARE_XIDS:
                self.heard_xids[index] = xid

    def _read_gpu(self, index: int, ours: Collection[int]) -> DeviceReading:
        try:
            handle = self.nvml.nvmlDeviceGetHandleByIndex(index)
            memory = self.nvml.nvmlDeviceGetMemoryInfo(handle)
        except self.nvml.NVMLError as error:
            fault = f"The driver cannot reach it: {error}. {WHAT_TO_DO}"
            return DeviceReading(DeviceKind.CUDA, index, fault=fault)
        rates = self._ask(self.nvml.nvmlDeviceGetUtilizationRates, handle)
        processes = self._ask(self.nvml.nvmlDeviceGetComputeRunningProcesses, handle) or []
        return DeviceReading(
            kind=DeviceKind.CUDA,
            index=index,
            utilisation=rates.gpu / 100 if rates else None,
            memory_used_bytes=int(memory.used),
            temperature_celsius=self._ask(self.nvml.nvmlDeviceGetTemperature, handle, self.nvml.NVML_TEMPERATURE_GPU),
            driver=self._ask(self.nvml.nvmlSystemGetDriverVersion) or "",
            other_processes=sum(is_stranger(process.pid, ours) for process in processes),
            fault=self._fault_of(index, handle),
        )

    def _fault_of(self, index: int, handle: Any) -> str:
        """Return what is wrong with its hardware and what to do; empty: it reports no fault."""
        nvml = self.nvml
        errors = self._ask(
            nvml.nvmlDeviceGetTotalEccErrors, handle, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
        )
        # Rows remapped after correctable errors, after uncorrectable ones, whether one is pending, whether one failed.
        _, _, is_pending, has_failed = self._ask(nvml.nvmlDeviceGetRemappedRows, handle) or (0, 0, 0, 0)
        if index in self.heard_xids:
            xid = self.heard_xids[index]
            found = f"It reported Xid {xid}: {HARDWARE_XIDS[xid]}."
        elif errors:
            found = f"Its memory had {errors} uncorrectable ECC errors since the driver started."
        elif has_failed:
            found = "A row of its memory is bad and could not be remapped."
        elif is_pending:
            found = "A row of its memory is bad and needs a reset to be remapped."
        elif self._ask(nvml.nvmlDeviceGetRetiredPagesPendingStatus, handle):
            found = "Pages of its memory are bad and need a reboot to be retired."
        else:
            return ""
        return f"{found} {WHAT_TO_DO}"

    def _ask(self, question: Callable[..., Answer], *arguments: Any) -> Answer | None:
        """Return NVML's answer; None: this device or driver does not support the query."""
        try:
            return question(*arguments)
        except self.nvml.NVMLError:
            return None


class Processors:
    """All CPU cores together, as one device; utilization is the share of busy time since the last reading."""

    def __init__(self, proc: Path = Path("/proc")) -> None:
        self.proc = proc
        self._before = self._ticks()

    def read(self) -> DeviceReading:
        before, self._before = self._before, self._ticks()
        idle, total = (now - then for now, then in zip(self._before, before, strict=True))
        return DeviceReading(
            kind=DeviceKind.CPU,
            index=0,
            utilisation=1 - idle / total if total > 0 else None,
            memory_used_bytes=self._memory_used(),
        )

    def _ticks(self) -> tuple[int, int]:
        """Return idle and total ticks since boot; zeros if the system does not report them."""
        try:
            first = (self.proc / "stat").read_text().partition("\n")[0]
        except OSError:
            return 0, 0
        user, nice, system, idle, iowait, irq, softirq, steal = map(int, first.split()[1:9])
        return idle + iowait, user + nice + system + idle + iowait + irq + softirq + steal

    def _memory_used(self) -> int | None:
        try:
            lines = (self.proc / "meminfo").read_text().splitlines()
        except OSError:
            return None
        kibibytes = {name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines)}
        return (kibibytes["MemTotal"] - kibibytes["MemAvailable"]) * 1024


def is_stranger(pid: int, ours: Collection[int]) -> bool:
    """Return whether the process is not ours. One that is not visible here (in another container) counts as ours."""
    seen = set()
    while pid not in ours:
        parent = parent_of(pid)
        if parent is None:
            return False
        if parent in {0, 1} or parent in seen:
            return True
        seen.add(pid)
        pid = parent
    return False


def parent_of(pid: int) -> int | None:
    """Return the parent's pid; None: there is no such process here."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, ValueError):
        return None
