"""The devices of this machine: its NVIDIA GPUs, otherwise its CPU cores in equal shares. Never uses torch (P1)."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import pynvml
from django.conf import settings

from finetune_hub.fleet.models import DeviceKind
from finetune_hub.jobs.worker_port import DeviceReport


def find_devices() -> list[DeviceReport]:
    """Return all devices that may be lent to attempts."""
    return find_gpus() or cpu_devices(settings.CPU_DEVICES)


def find_gpus() -> list[DeviceReport]:
    """Return the GPUs that NVIDIA's driver reports; empty without a driver."""
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


def cpu_devices(count: int) -> list[DeviceReport]:
    """Return the CPU cores and memory of this machine as `count` devices, each with its share of both."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    cores = threads_of_cpu_device(count)
    name = f"{processor_name()}, {cores} core{'s' if cores > 1 else ''}"
    return [
        DeviceReport(kind=DeviceKind.CPU, index=index, name=name, memory_bytes=memory_bytes // count, cores=cores)
        for index in range(count)
    ]


def threads_of_cpu_device(count: int) -> int:
    """Return how many of the machine's threads each of `count` devices may use."""
    return max(1, (os.cpu_count() or 1) // count)


def processor_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
