"""The volumes of docs/scaling.md are those that the stages move."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import scaling
import timm
import torch

from mimiq.config.distillation import DistillationRecipe
from mimiq.config.precision import int4
from mimiq.distill.loop import distill
from mimiq.models import LoadedModel
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.ranks.group import Group, using


class Counting(Group):
    """The first of two ranks, whose other has nothing: it counts what would be moved."""

    world = 2

    def __init__(self) -> None:
        self.messages: list[int] = []

    def sum_(self, tensors: Sequence[torch.Tensor]) -> None:
        self.messages.append(sum(tensor.nbytes for tensor in tensors))


def small_shape() -> scaling.Shape:
    return scaling.Shape("small", 64, 2, tokens=65, patch=4, classes=10)


def test_the_volumes_are_those_that_are_moved(
    small_vit: LoadedModel, images: torch.Tensor, pixels: torch.Tensor
) -> None:
    shape = small_shape()
    quick = RangeRecipe("minmax", rotate=False, migrate=False, outliers=False, importance=False)
    with using(Counting()) as group:
        assert isinstance(group, Counting)
        network = quantize(small_vit, int4(), images, quick)
        assert sum(group.messages) == scaling.fit_bytes(shape)
        assert len(group.messages) == len(shape.linears) * shape.depth
        group.messages.clear()
        distill(network, pixels[:8], DistillationRecipe(steps=1, batch_size=4), held_out=pixels[:4])
    steps = [message for message in group.messages if message > 1000]
    assert steps == [pytest.approx(scaling.step_bytes(shape), rel=0.01)]


def test_shapes_are_those_of_the_networks() -> None:
    names = ("deit_small_patch16_224", "vit_base_patch16_224", "vit_large_patch16_224")
    for name, shape in zip(names, scaling.SHAPES, strict=True):
        with torch.device("meta"):
            network = timm.create_model(name)
        assert shape.parameters == sum(part.numel() for part in network.parameters())


def test_ranks_wait_for_the_last_batch() -> None:
    assert scaling.speedup(157, 64) == pytest.approx(157 / 3)
    assert scaling.ring(100, 2) == 100
