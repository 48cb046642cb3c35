"""Seeing what flows into a layer, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn


def evenly_spread(count: int, most: int) -> npt.NDArray[np.int64]:
    """Indices of ``most`` of ``count`` things, evenly spread; of all where there are no more."""
    indices: npt.NDArray[np.int64] = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    return indices


@contextmanager
def watch_inputs(
    layers: Mapping[str, nn.Module], see: Callable[[str, torch.Tensor], None]
) -> Iterator[None]:
    """Call ``see(name, input)`` whenever one of ``layers`` runs inside the ``with``."""

    def hook_for(name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        return lambda _module, inputs: see(name, inputs[0].detach())

    handles = [layer.register_forward_pre_hook(hook_for(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def sample_inputs(
    module: nn.Module,
    layers: Mapping[str, nn.Module],
    images: torch.Tensor,
    *,
    rows: int = 4096,
    batch_size: int = 16,
    seed: int = 0,
) -> dict[str, torch.Tensor]:
    """About ``rows`` random input rows (n, C) of each layer, over all ``images`` (B, C, H, W)."""
    generator = torch.Generator().manual_seed(seed)
    kept: dict[str, list[torch.Tensor]] = {name: [] for name in layers}
    per_batch = max(1, rows * batch_size // max(len(images), batch_size))

    def see(name: str, x: torch.Tensor) -> None:
        flat = x.reshape(-1, x.shape[-1])
        chosen = torch.randperm(len(flat), generator=generator)[:per_batch]
        kept[name].append(flat[chosen.to(flat.device)].float())

    with watch_inputs(layers, see):
        for batch in images.split(batch_size):
            module(batch)
    return {name: torch.cat(parts) for name, parts in kept.items()}
