"""What this host is: the names that belong beside every measured number."""

from __future__ import annotations

import ctypes
import functools
import math
import os
import platform
import sys
from collections.abc import Mapping
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.runtime.gpus import describe_gpus
from mimiq.version import __version__

# Those that decide which integer kernels a runtime can choose.
_INSTRUCTION_SETS = (
    "avx2",
    "avx512f",
    "avx_vnni",
    "avx512_vnni",
    "avx512_bf16",
    "amx_int8",
    "amx_bf16",
    "asimddp",
    "i8mm",
    "bf16",
)
_MOST_THREADS = 4096
# numpy's names for the same, where there is no /proc/cpuinfo.
_NUMPY_NAMES = {"AVX2": "avx2", "AVX512F": "avx512f", "AVX512VNNI": "avx512_vnni"}
_NUMPY_NAMES |= {"ASIMDDP": "asimddp"}

_DEFAULT_SOFTWARE = ("mimiq", "numpy", "pillow", "onnxruntime-gpu", "onnxruntime", "openvino")


def describe_hardware() -> dict[str, Any]:
    """CPU, memory, GPUs and operating system.

    Returns:
        ``{"cpu", "cores", "instruction_sets", "memory_gib", "gpus", "os"}``; ``gpus`` is a list of
        ``{"name", "driver", "compute_capability", "memory_gib"}``, empty where there is none.
        What cannot be found out is None.
    """
    return {
        "cpu": cpu_name(),
        "cores": usable_cores(),
        "instruction_sets": instruction_sets(),
        "memory_gib": _memory_gib(),
        "gpus": describe_gpus(),
        "os": f"{platform.system()} {platform.release()} {platform.machine()}",
    }


def host_name(hardware: Mapping[str, Any], backend: str) -> str:
    """The device that ``backend`` ran on, for people.

    Args:
        hardware: as :func:`describe_hardware` gave it.
        backend: as a session names itself.
    """
    gpus = hardware.get("gpus") or []
    if gpus and "cpu" not in backend:
        return str(gpus[0].get("name"))
    sets = [name for name in hardware.get("instruction_sets") or () if "vnni" in name]
    sets += [name for name in hardware.get("instruction_sets") or () if name == "amx_int8"]
    integer = f" with {', '.join(sets)}" if sets else ""
    return f"{hardware.get('cpu') or 'an unknown CPU'}, {hardware.get('cores')} cores{integer}"


def describe_software(*names: str) -> dict[str, str]:
    """Versions of Python and of those named distributions that are installed.

    Args:
        names: distributions; without any, those that every installation has.
    """
    found = {name: installed_version(name) for name in names or _DEFAULT_SOFTWARE}
    installed = {name: version for name, version in found.items() if version is not None}
    return {"python": platform.python_version(), **installed}


def installed_version(name: str) -> str | None:
    """The version of an installed distribution, or of ``mimiq`` itself; None where it is absent."""
    if name == "mimiq":  # the distribution of that name is another project
        return __version__
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def cpu_name() -> str | None:
    """The processor as its maker names it."""
    return _cpuinfo("model name", "Model", "Hardware") or platform.processor() or None


def usable_cores() -> int:
    """Logical cores this process may use: by affinity, and by a container's quota."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        return os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            cores = min(cores, math.ceil(int(quota) / int(period)))
    except (OSError, ValueError):
        pass
    return max(1, cores)


def instruction_sets() -> list[str]:
    """Which instruction sets that matter for quantised inference the CPU has."""
    flags = _cpuinfo("flags", "Features").split()
    if not flags:
        try:
            features = import_module("numpy._core._multiarray_umath").__cpu_features__
        except (ImportError, AttributeError):
            return []
        flags = [ours for theirs, ours in _NUMPY_NAMES.items() if features.get(theirs)]
    return [name for name in _INSTRUCTION_SETS if name in flags]


@functools.cache
def cuda_driver_present() -> bool:
    """Whether an NVIDIA driver can be loaded and sees a GPU. Prints nothing."""
    library = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    try:
        driver = ctypes.CDLL(library)
        count = ctypes.c_int(0)
        return (
            driver.cuInit(0) == 0
            and driver.cuDeviceGetCount(ctypes.byref(count)) == 0
            and count.value > 0
        )
    except (OSError, AttributeError):
        return False


def check_count(count: object, what: str) -> None:
    """Refuse a number of threads or streams that no host has; None is one a core.

    Raises:
        BadInput: it is no whole number, or not in 1 … 4096. Settings of a server may be anything.
    """
    if count is None:
        return
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= _MOST_THREADS:
        raise BadInput(f"{count} {what} cannot work.", f"Ask for 1 to {_MOST_THREADS}.")


@functools.cache
def _cpuinfo(*keys: str) -> str:
    """The first value under one of these keys in /proc/cpuinfo, or ''."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return ""
    for line in lines:
        key, _, value = line.partition(":")
        if key.strip() in keys:
            return value.strip()
    return ""


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, OSError, ValueError):
        return None
