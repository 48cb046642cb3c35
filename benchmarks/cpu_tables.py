"""What benchmarks on a CPU read and say alike, above all what a table was measured on."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mimiq.runtime.bundle import MODEL, Bundle
from mimiq.runtime.host import describe_hardware, describe_software
from mimiq.runtime.onnxruntime.graph import integer_kernels


def numbers(text: str) -> tuple[int, ...]:
    """What an option says: ``1,8`` is (1, 8)."""
    return tuple(int(part) for part in text.split(","))


def counted(count: int, noun: str) -> str:
    """``1 thread``, ``2 threads``."""
    return f"{count} {noun}{'s' * (count != 1)}"


def form_or_plain(bundle: Bundle, form: str) -> str:
    """The form that a runtime prefers, or the plain graph where the bundle does not have it."""
    return form if bundle.has(form) else MODEL


def measured_on(model: Any, *packages: str) -> dict[str, Any]:
    """The head of a result: now, the network, the host, its kernels and the versions.

    Args:
        model: what the result says of the network.
        packages: distributions to name beside mimiq and ONNX Runtime.
    """
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": model,
        "hardware": describe_hardware(),
        "integer_kernels": integer_kernels().name,
        "software": describe_software("mimiq", "onnxruntime", "onnxruntime-gpu", *packages),
    }


def host_line(result: Mapping[str, Any]) -> str:
    """What :func:`measured_on` found, for people; without a full stop."""
    hardware = result["hardware"]
    versions = ", ".join(f"{name} {version}" for name, version in result["software"].items())
    return (
        f"{hardware['cpu']}, {hardware['cores']} cores, {result['integer_kernels']}; {versions}; "
        f"{result['created'][:10]}"
    )


def profile_line(result: Mapping[str, Any]) -> str:
    """The host, the ``load`` meanwhile, and how each node's time was taken from ``rounds``."""
    loads = " to ".join(f"{load:.1f}" for load in result["load"])
    return (
        f"{host_line(result)}. Load average {loads}: each time is the least of "
        f"{result['rounds']} rounds, of each node by itself."
    )
