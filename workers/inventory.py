"""The devices of this machine: its NVIDIA GPUs, else its processors as one device. Never through torch (P1)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pynvml

from finetune_hub.fleet.models import DeviceKind
from finetune_hub.jobs.worker_port import DeviceReport


def find_devices() -> list[DeviceReport]:
    """All devices that may be lent to attempts."""
    return find_gpus() or [cpu_device()]


def find_gpus() -> list[DeviceReport]:
    """The GPUs that NVIDIA's driver shows; none where there is no driver."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [
            DeviceReport(
                kind=DeviceKind.CUDA,
                index=index,
                name=pynvml.nvmlDeviceGetName(handle),
                memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
            )
            for index, handle in enumerate(handles)
        ]
    finally:
        pynvml.nvmlShutdown()


def cpu_device() -> DeviceReport:
    """All processors together, as one device."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    name = f"{processor_name()}, {os.cpu_count()} cores"
    return DeviceReport(kind=DeviceKind.CPU, index=0, name=name, memory_bytes=memory_bytes)


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
