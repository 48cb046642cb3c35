"""Scales of weights, against the best there are."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from activations import (
    demands,
    fast,
    squared_error,
)
from hypothesis import given
from hypothesis import strategies as st

from mimiq.calibrate.observers import (
    MinMaxObserver,
)
from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.errors import BadInput
from mimiq.quantize.fake_quant import Grid, fake_quantize


def weight_error(
    weight: torch.Tensor, scale: torch.Tensor, grid: Grid, axis: int, block: int
) -> Any:
    rounded = fake_quantize(weight, scale, grid.qmin, grid.qmax, axis, block)
    return (weight - rounded).square().sum()


@fast
@given(
    seed=st.integers(0, 2**31),
    bits=st.integers(2, 8),
    form=st.sampled_from([(-1, 0), (0, 0), (1, 8), (1, 0)]),
)
def test_weight_scales_are_at_least_as_good_as_minmax(
    seed: int, bits: int, form: tuple[int, int]
) -> None:
    axis, block = form
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 24, generator=generator) ** 3
    grid = Grid.signed(bits)
    scale = mse_weight_scale(weight, grid, axis, block)
    shapes = {(-1, 0): (), (0, 0): (6,), (1, 8): (6, 3), (1, 0): (24,)}
    assert scale.shape == shapes[form]
    assert scale.dtype == torch.float32
    assert (scale > 0).all()
    groups = {(-1, 0): weight.reshape(1, -1), (0, 0): weight, (1, 0): weight.T}.get(
        form, weight.reshape(-1, 8)
    )
    observer = MinMaxObserver(axis=0)
    observer.update(groups)
    exact = observer.scale(grid).reshape(scale.shape)
    found = weight_error(weight, scale, grid, axis, block)
    assert found <= weight_error(weight, exact, grid, axis, block) * (1 + 1e-6)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_weight_scales_are_close_to_the_best_there_are(bits: int) -> None:
    weight = torch.randn(16, 192, generator=torch.Generator().manual_seed(0))
    grid = Grid.signed(bits)
    scale = mse_weight_scale(weight, grid, 0, 0)
    # At 8 bits the error is a jagged function of the scale, and small.
    tolerance = 1.1 if bits == 8 else 1.03
    for channel in range(16):
        row = weight[channel].numpy()
        largest = demands(row, grid).max()
        best = min(squared_error(row, largest * r, grid) for r in np.linspace(0.2, 1, 1000))
        assert squared_error(row, scale[channel].item(), grid) <= best * tolerance


def test_weight_scales_of_convolutions_half_precision_and_dead_channels() -> None:
    weight = torch.randn(8, 3, 4, 4, generator=torch.Generator().manual_seed(0)).half()
    weight[5] = 0
    scale = mse_weight_scale(weight, Grid(-127, 127), 0, 0)
    assert scale.shape == (8,)
    # A dead channel can still learn on the grid that the others use.
    assert scale[5].item() == pytest.approx(weight.abs().max().item() / 127, rel=1e-6)
    assert mse_weight_scale(torch.zeros(4, 8), Grid(-8, 7), 1, 4).tolist() == [[1, 1]] * 4


def test_weight_scale_leaves_its_input_alone() -> None:
    weight = torch.nn.Parameter(torch.randn(4, 8))
    before = weight.detach().clone()
    assert not mse_weight_scale(weight, Grid(-8, 7), 0, 0).requires_grad
    assert torch.equal(weight, before)


def test_weight_scale_refuses() -> None:
    with pytest.raises(BadInput, match="no whole blocks of 5"):
        mse_weight_scale(torch.randn(4, 8), Grid(-8, 7), 1, 5)
    with pytest.raises(BadInput, match="no whole blocks"):
        mse_weight_scale(torch.randn(4, 8), Grid(-8, 7), 0, 4)
    with pytest.raises(BadInput, match="NaN or infinity"):
        mse_weight_scale(torch.tensor([[1.0, math.nan]]), Grid(-8, 7), 0, 0)
