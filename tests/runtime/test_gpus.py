"""GPUs as NVIDIA's management library tells of them, by a made-up one."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

from mimiq.runtime import gpus


class NVMLError(Exception):
    pass


def library(**changes: Any) -> Any:
    """Two GPUs: an H100, and one that tells little."""

    def told(value: Any) -> Any:
        def ask(handle: int, *_: Any) -> Any:
            if handle:
                raise NVMLError("Not Supported")
            return value

        return ask

    calls = SimpleNamespace(
        NVMLError=NVMLError,
        NVML_CLOCK_SM=1,
        NVML_CLOCK_MEM=2,
        NVML_TEMPERATURE_GPU=0,
        nvmlInit=lambda: None,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.95",
        nvmlDeviceGetCount=lambda: 2,
        nvmlDeviceGetHandleByIndex=lambda index: index,
        nvmlDeviceGetName=lambda handle: ("NVIDIA H100 80GB HBM3", "NVIDIA T4")[handle],
        nvmlDeviceGetCudaComputeCapability=lambda handle: ((9, 0), (7, 5))[handle],
        nvmlDeviceGetMemoryInfo=told(SimpleNamespace(total=85_520_809_984)),
        nvmlDeviceGetClockInfo=lambda handle, kind: {1: 1980, 2: 2619}[kind],
        nvmlDeviceGetMaxClockInfo=told(1980),
        nvmlDeviceGetTemperature=told(41),
        nvmlDeviceGetPowerUsage=told(121_340),
        nvmlDeviceGetCurrentClocksThrottleReasons=told(1),
    )
    vars(calls).update(changes)
    return calls


@pytest.fixture(autouse=True)
def _asked_anew() -> None:
    gpus.describe_gpus.cache_clear()


def test_which_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    assert gpus.describe_gpus() == [
        {
            "name": "NVIDIA H100 80GB HBM3",
            "driver": "580.95",
            "compute_capability": "9.0",
            "memory_gib": 79.6,
        },
        {"name": "NVIDIA T4", "driver": "580.95", "compute_capability": "7.5", "memory_gib": None},
    ]


def test_how_the_first_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", library())
    assert gpus.gpu_state() == {
        "name": "NVIDIA H100 80GB HBM3",
        "clocks.sm": "1980",
        "clocks.mem": "2619",
        "clocks.max.sm": "1980",
        "temperature.gpu": "41",
        "power.draw": "121.34",
        "clocks_event_reasons.active": "0x0000000000000001",
    }


def test_what_a_gpu_does_not_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(handle: int) -> int:
        raise NVMLError("Not Supported")

    monkeypatch.setitem(sys.modules, "pynvml", library(nvmlDeviceGetPowerUsage=refuse))
    state = gpus.gpu_state()
    assert state is not None
    assert "power.draw" not in state
    assert "clocks.sm" in state


def test_without_a_driver_or_the_library_there_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NVMLError("Driver Not Loaded")

    for module in (library(nvmlInit=refuse), library(nvmlDeviceGetCount=lambda: 0), None):
        gpus.describe_gpus.cache_clear()
        monkeypatch.setitem(sys.modules, "pynvml", module)  # None: importing it fails
        assert gpus.describe_gpus() == []
        assert gpus.gpu_state() is None
