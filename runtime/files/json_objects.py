"""JSON files of a bundle: read as objects, written for people."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.files import exhausted, read_text

_SURROGATE = re.compile("[\ud800-\udfff]")
COMPILE_AGAIN = "Compile the model again with mimiq-compile."


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        BadInput: the file cannot be read, or holds something else.
        EnvironmentLacks: too many files are open.
    """
    try:
        data = json.loads(read_text(path))
    except OSError as error:
        problem = f"{path} cannot be read"
        raise exhausted(error, problem) or BadInput(
            f"{problem}: {error.strerror}.", COMPILE_AGAIN
        ) from error
    except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, or far too long
        raise BadInput(f"{path} is not valid JSON: {error}.", COMPILE_AGAIN) from error
    if not isinstance(data, dict):
        raise BadInput(f"{path} holds no JSON object.", COMPILE_AGAIN)
    return data


def as_object(value: Any) -> Mapping[str, Any]:
    """A value of a file where it is an object; an empty one where it is anything else."""
    return value if isinstance(value, Mapping) else {}


def pretty_json(data: Mapping[str, Any]) -> str:
    """JSON for people to read.

    Raises:
        BadInput: a value has no form in JSON.
    """
    try:
        text = json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"A manifest or report cannot be written as JSON: {error}.",
            "Use text, finite numbers, lists and dictionaries.",
        ) from error
    # What stands for the bytes of a file's name that is no UTF-8, and cannot be written as such.
    return _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)
