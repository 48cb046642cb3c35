"""NVIDIA GPUs: which there are, and how one stands while it is measured. Loads no CUDA."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@functools.cache
def describe_gpus() -> list[dict[str, Any]]:
    """Each GPU as ``{"name", "driver", "compute_capability", "memory_gib"}``; None is unknown.

    The list is empty without a driver, or without nvidia-ml-py.
    """
    with _nvml() as nvml:
        if nvml is None:
            return []
        driver = _asked(nvml, nvml.nvmlSystemGetDriverVersion)
        return [_described(nvml, handle, driver) for handle in _handles(nvml)]


def gpu_state() -> dict[str, str] | None:
    """Clocks, temperature and power of the first GPU now, by nvidia-smi's names and in its units.

    What a GPU does not tell is left out. None where there is no GPU.
    """
    with _nvml() as nvml:
        handle = next(_handles(nvml), None) if nvml is not None else None
        if nvml is None or handle is None:
            return None
        of = functools.partial(_asked, nvml)
        milliwatts = of(nvml.nvmlDeviceGetPowerUsage, handle)
        reasons = of(nvml.nvmlDeviceGetCurrentClocksThrottleReasons, handle)
        found = {
            "name": of(nvml.nvmlDeviceGetName, handle),
            "clocks.sm": of(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_SM),
            "clocks.mem": of(nvml.nvmlDeviceGetClockInfo, handle, nvml.NVML_CLOCK_MEM),
            "clocks.max.sm": of(nvml.nvmlDeviceGetMaxClockInfo, handle, nvml.NVML_CLOCK_SM),
            "temperature.gpu": of(nvml.nvmlDeviceGetTemperature, handle, nvml.NVML_TEMPERATURE_GPU),
            "power.draw": None if milliwatts is None else f"{milliwatts / 1000:.2f}",
            "clocks_event_reasons.active": None if reasons is None else f"0x{reasons:016X}",
        }
    return {name: str(value) for name, value in found.items() if value is not None}


@contextmanager
def _nvml() -> Iterator[Any]:
    """NVIDIA's management library, opened; None where it is absent."""
    try:
        import pynvml
    except ImportError:
        yield None
        return
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        yield None
        return
    try:
        yield pynvml
    finally:
        pynvml.nvmlShutdown()


def _handles(nvml: Any) -> Iterator[Any]:
    for index in range(_asked(nvml, nvml.nvmlDeviceGetCount) or 0):
        handle = _asked(nvml, nvml.nvmlDeviceGetHandleByIndex, index)
        if handle is not None:
            yield handle


def _described(nvml: Any, handle: Any, driver: str | None) -> dict[str, Any]:
    capability = _asked(nvml, nvml.nvmlDeviceGetCudaComputeCapability, handle)
    memory = _asked(nvml, nvml.nvmlDeviceGetMemoryInfo, handle)
    return {
        "name": _asked(nvml, nvml.nvmlDeviceGetName, handle),
        "driver": driver,
        "compute_capability": ".".join(map(str, capability)) if capability else None,
        "memory_gib": round(memory.total / 2**30, 1) if memory else None,
    }


def _asked(nvml: Any, ask: Callable[..., Any], *arguments: Any) -> Any:
    """What NVML answers; None where this GPU or driver does not tell."""
    try:
        return ask(*arguments)
    except nvml.NVMLError:
        return None
