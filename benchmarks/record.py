"""What a study writes: a JSON file and a table, and in the first of them what it was made with."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mimiq.devices import describe_device, pick_device
from mimiq.models import LoadedModel


def made_with(model: LoadedModel, device: str | torch.device = "cpu") -> dict[str, Any]:
    """The network, the host and torch."""
    return {
        "model": model.describe(),
        "hardware": describe_device(pick_device(str(device))),
        "torch": torch.__version__,
    }


def write(folder: Path, name: str, result: Mapping[str, Any], table: str = "") -> None:
    """``name.json``, and ``name.md`` where there is a table."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")
    if table:
        (folder / f"{name}.md").write_text(table)
