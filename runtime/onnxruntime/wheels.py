"""Which of ONNX Runtime's distributions is installed: two of them write into one folder."""

from __future__ import annotations

from mimiq.runtime.host import installed_version

CPU, GPU = "onnxruntime", "onnxruntime-gpu"


def installed_wheels() -> tuple[str, ...]:
    """The distributions that are here; of two, the one installed last is what is imported."""
    return tuple(name for name in (GPU, CPU) if installed_version(name) is not None)


def swap_for(wanted: str) -> str:
    """The commands that leave one distribution, and that one whole."""
    present = installed_wheels()
    if not present:
        return f"pip install {wanted}"
    # What is left of two is damaged by the other's removal, so both go first.
    return f"pip uninstall -y {' '.join(present)} && pip install {wanted}"


def clash() -> str | None:
    """What to do where both are installed; None where all is well."""
    if len(installed_wheels()) < 2:
        return None
    return (
        f"{GPU} and {CPU} are both installed and overwrite each other's files. Keep one: "
        f"{swap_for(GPU)} (or {CPU}, without a GPU)."
    )
