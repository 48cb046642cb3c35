"""What compiling needs beside the runtime, and other libraries' chatter kept down meanwhile."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mimiq.errors import EnvironmentLacks, pip_install

COMPILE_LIBRARIES = ("torch", "timm", "onnx", "onnx_ir", "onnxscript", "safetensors")


def missing_libraries() -> list[str]:
    """Those of the ``compile`` extra that are not installed; none is imported."""
    return [name for name in COMPILE_LIBRARIES if importlib.util.find_spec(name) is None]


def require_compile_extra() -> None:
    """Raise EnvironmentLacks, with the line that installs it, where a library is missing."""
    missing = missing_libraries()
    if missing:
        raise EnvironmentLacks(
            f"Compiling needs libraries that are not installed: {', '.join(missing)}.",
            f"Install them with: {pip_install('compile')}",
        )


@contextmanager
def hushed(*names: str, level: int = logging.ERROR) -> Iterator[None]:
    """While it lasts these loggers tell nothing below ``level``; then they are as they were."""
    loggers = [logging.getLogger(name) for name in names]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, was in zip(loggers, before, strict=True):
            logger.setLevel(was)
