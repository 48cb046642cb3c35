"""Checkpoints in several files, with an index that says which tensor lies in which."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import torch

from mimiq.errors import MISREAD, BadInput
from mimiq.files import exhausted

Tensors = dict[str, torch.Tensor]


def read_shards(path: Path, read: Callable[[Path], Tensors]) -> Tensors:
    """The tensors of all shards.

    Args:
        path: the index, ``*.index.json``.
        read: reads one shard.

    Raises:
        BadInput: it is no index, a shard is not beside it, or lacks what the index says.
    """
    try:
        places = json.loads(path.read_text(encoding="utf-8"))["weight_map"]
        files = sorted(set(places.values()))
    except (OSError, *MISREAD) as error:
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} is no index of shards: it has no weight_map.",
            "Give the index that lies beside the shards, *.index.json, or one weights file.",
        ) from error
    tensors: Tensors = {}
    for name in files:
        if not isinstance(name, str) or not name or name.endswith(".json"):
            raise BadInput(f"{path} names {name!r}, which is no shard.", "Check the index.")
        if Path(name).name != name:
            raise BadInput(f"{path} names a shard outside its folder: {name}.", "Check the index.")
        if not os.path.isfile(path.parent / name):  # False, too, for names that no file can have
            raise BadInput(
                f"{path} names {name}, which is not beside it.",
                f"Copy all {len(files)} shards into {path.parent}.",
            )
        found = read(path.parent / name)
        absent = [key for key, place in places.items() if place == name and key not in found]
        if absent:
            raise BadInput(
                f"{path} says that {name} holds {absent[0]}, and it does not.",
                "Copy the index and all shards again from one place.",
            )
        # Of a tensor that lies in two shards, the index says which one is meant.
        tensors |= {key: value for key, value in found.items() if places.get(key, name) == name}
    return tensors
