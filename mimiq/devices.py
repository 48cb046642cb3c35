"""Which device to compute on, and in which number format it gains."""

from __future__ import annotations

import os
import platform

import torch

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.ranks.joining import local_rank
from mimiq.runtime.host import cpu_name, instruction_sets


def pick_device(name: str) -> torch.device:
    """The device for ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; ``auto`` prefers CUDA.

    Of several ranks on a host each gets a GPU of its own.

    Raises:
        BadInput: any other name.
        EnvironmentLacks: CUDA was asked for and this host, or this PyTorch, has none.
    """
    rank = local_rank()
    if name == "auto":
        if rank is None or not torch.cuda.is_available():
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        name = "cuda"
    if name == "cuda" and rank is not None and torch.cuda.device_count():
        return torch.device("cuda", rank % torch.cuda.device_count())
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise BadInput(f"Device {name!r} is unknown.", "Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise EnvironmentLacks(
            f"Device {name} was asked for, and PyTorch sees {torch.cuda.device_count()} CUDA "
            "devices.",
            "Use `device=cpu`, or install a driver and a CUDA build of PyTorch.",
        )
    return device


def fast_dtype(device: torch.device) -> torch.dtype | None:
    """The format to autocast to where the hardware has units for it; None: stay in fp32.

    bfloat16 alone: fp16 would need loss scaling. On a CPU without bfloat16 products it is emulated
    and slower than fp32, as it is where oneDNN was told to take the CPU for less than it is
    (``ONEDNN_MAX_CPU_ISA``).
    """
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.get_device_capability(device) >= (8, 0) else None
    if device.type == "cpu" and _cpu_multiplies_bfloat16():
        return torch.bfloat16
    return None


def describe_device(device: torch.device) -> str:
    """Hardware as a person would name it, for manifests and results."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{cpu_name() or platform.machine()}, {torch.get_num_threads()} threads"


def _cpu_multiplies_bfloat16() -> bool:
    allowed = os.environ.get("ONEDNN_MAX_CPU_ISA", "DEFAULT").upper()
    # AVX512_CORE_FP16 and AVX10 include bfloat16, AVX2_VNNI_2 converts alone.
    if not any(name in allowed for name in ("DEFAULT", "ALL", "BF16", "FP16", "AMX", "AVX10")):
        return False
    if hasattr(torch.cpu, "get_capabilities"):
        has = torch.cpu.get_capabilities()
        return bool(has.get("avx512_bf16") or has.get("amx_bf16"))
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(instruction_sets())
