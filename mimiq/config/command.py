"""A compilation as the command line that asks for it."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NAMED = {"w8a8": "--int8", "int8": "--int8", "w4a8": "--int4", "int4": "--int4"}
_SPELLED = {"evaluation": "eval"}  # where the flag is not the parameter's name


def compile_command(model: str, precision: str, given: Mapping[str, Any]) -> str:
    """What to type for the same bundle, wherever it goes.

    Args:
        model: its name.
        precision: by its name, as of :func:`mimiq.compile`.
        given: other parameters of that which are not as they are by default.
    """
    parts = ["mimiq-compile", model, *precision_flags(precision)]
    for name, value in given.items():
        if name == "batches" and not value:
            parts.append("--no-bench")
        else:
            parts += flag_for(_SPELLED.get(name, name), value)
    return shlex.join(parts)


def precision_flags(precision: str) -> list[str]:
    """The flags of a precision's name."""
    if precision in _NAMED:
        return [_NAMED[precision]]
    bits, _, rest = precision.partition("-")
    if rest:  # intX-weight-only
        widths = ["--int4"] if bits == "int4" else ["--bits", f"w{bits[3:]}a16"]
        return [*widths, "--weight-only"]
    return ["--bits", precision]


def flag_for(name: str, value: object) -> list[str]:
    """The option that gives this value; none where there is none to give."""
    if value is None or (value is False and name != "ema"):
        return []
    option = f"--{name.replace('_', '-')}"
    if isinstance(value, bool):
        return [option if value else "--no-ema"]
    if isinstance(value, dict):
        return [option, ",".join(f"{key}={json.dumps(item)}" for key, item in value.items())]
    if name == "image_size" and isinstance(value, tuple):
        return [option, "x".join(str(side) for side in value)]
    parts = value if isinstance(value, list | tuple) else (value,)
    return [option, ",".join(_text(part) for part in parts)]


def _text(value: object) -> str:
    return value.as_posix() if isinstance(value, Path) else str(value)
