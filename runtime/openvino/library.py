"""The library openvino: imported when first needed, and refused where it is too old."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mimiq.errors import EnvironmentLacks, missing_extra, pip_install

_NOT_TELLING = ("Exception from", "Check '")
_STATISTICS = "openvino_telemetry"
EXTRA = "openvino"
OLDEST = (2025, 0)  # the first whose answers were held against ONNX Runtime's here


def is_installed() -> bool:
    """Whether the library can be found; it is not loaded."""
    return importlib.util.find_spec("openvino") is not None


def import_openvino() -> Any:
    """The library, which sends no statistics of its use where mimiq is the first to import it.

    Raises:
        EnvironmentLacks: it is absent, its shared libraries do not load, or it is too old.
    """
    if not is_installed():
        raise missing_extra("OpenVINO", EXTRA)
    try:
        with _without_statistics():
            library = importlib.import_module("openvino")
        version = str(library.__version__)
        _ = library.Core
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        raise EnvironmentLacks(
            f"OpenVINO is installed, but does not load: {error}",
            f"Install it again with: {pip_install(EXTRA, '--force-reinstall')}",
        ) from error
    if _numbers(version) < OLDEST:
        raise EnvironmentLacks(
            f"OpenVINO {version.partition('-')[0]} is too old.",
            f"Install version {'.'.join(map(str, OLDEST))} or later: {pip_install(EXTRA)}",
        )
    return library


@contextmanager
def _without_statistics() -> Iterator[None]:
    """Hide the package through which OpenVINO tells its makers of every import.

    It does so unasked, writes to the home folder, and has a child process wait for the network,
    which forked children of ours would try to join.
    """
    if _STATISTICS in sys.modules:
        yield
        return
    sys.modules[_STATISTICS] = None  # type: ignore[assignment]  # as if it were not installed
    try:
        yield
    finally:
        del sys.modules[_STATISTICS]


def what_it_says(error: Exception) -> str:
    """The line of OpenVINO's error that names the reason, the last; others name its source."""
    lines = [line.strip() for line in str(error).splitlines()]
    telling = [line for line in lines if line and not line.startswith(_NOT_TELLING)]
    return (telling or [type(error).__name__])[-1].removeprefix("-- ")


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version)[:2])
