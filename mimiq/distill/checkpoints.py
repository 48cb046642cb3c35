"""Checkpoints of a distillation: written whole or not at all, and read where nothing is damaged."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimiq import files
from mimiq.files import refuse_exhausted
from mimiq.models.archives import damaged_entry


def write(path: Path, state: Mapping[str, Any]) -> None:
    """Replace a checkpoint in one step; ``state`` holds tensors, numbers, lists and dictionaries.

    Raises:
        OSError: it cannot be written; the one before is as it was.
    """
    with files.replacing(path) as temporary:
        torch.save(dict(state), temporary)


def read(content: bytes, device: torch.device) -> dict[str, Any] | None:
    """What :func:`write` wrote, its tensors on ``device``; None where it is damaged.

    Raises:
        EnvironmentLacks: the memory does not suffice for it.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if damaged_entry(archive) is not None:  # torch.load would take it as it is
                return None
        state: dict[str, Any] = torch.load(
            io.BytesIO(content), map_location=device, weights_only=True
        )
    except Exception as error:  # of damage both libraries raise anything
        refuse_exhausted(error, "the last checkpoint cannot be read")
        return None
    return state
