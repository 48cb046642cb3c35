"""The fake-quantisation operator against its definition, and its gradients."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from mimiq.quantize.fake_quant import (
    FrozenQuantizer,
    Grid,
    Quantizer,
    fake_quantize,
    fake_quantize_to,
)
from mimiq.quantize.layers import QuantLinear, freeze

_grids = st.sampled_from(
    [Grid.signed(8), Grid.signed(4), Grid.weight(8), Grid(0, 127), Grid(-1, 14), Grid.signed(2)]
)


def _definition(x: torch.Tensor, scale: torch.Tensor, grid: Grid) -> torch.Tensor:
    return torch.clamp(torch.round(x / scale), grid.qmin, grid.qmax) * scale


@given(_grids, st.integers(0, 10_000), st.sampled_from(["tensor", "channel", "block"]))
@settings(deadline=None)
def test_equals_the_definition(grid: Grid, seed: int, kind: str) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(6, 8, generator=generator)
    if kind == "tensor":
        scale, axis, block, spread = torch.tensor(0.07), -1, 0, torch.tensor(0.07)
    elif kind == "channel":
        scale = torch.rand(6, generator=generator) * 0.2 + 0.01
        axis, block, spread = 0, 0, scale[:, None]
    else:
        scale = torch.rand(6, 2, generator=generator) * 0.2 + 0.01
        axis, block, spread = 1, 4, scale.repeat_interleave(4, 1)
    found = fake_quantize(x, scale, grid.qmin, grid.qmax, axis, block)
    assert torch.equal(found, _definition(x, spread, grid))


@given(st.floats(1e-4, 10), st.integers(-200, 200))
def test_is_idempotent_and_odd_steps_round_to_even(step: float, whole: int) -> None:
    grid, scale = Grid.signed(8), torch.tensor(step)
    x = torch.tensor([whole * step])
    once = fake_quantize(x, scale, grid.qmin, grid.qmax, -1, 0)
    assert torch.equal(fake_quantize(once, scale, grid.qmin, grid.qmax, -1, 0), once)
    half = torch.tensor([0.5, 1.5, 2.5, -0.5])
    rounded = fake_quantize(half, torch.tensor(1.0), grid.qmin, grid.qmax, -1, 0)
    assert rounded.tolist() == [0, 2, 2, 0]


@pytest.mark.parametrize(("axis", "block", "shape"), [(-1, 0, ()), (0, 0, (6,)), (1, 4, (6, 2))])
def test_gradients_are_straight_through_and_lsq(
    axis: int, block: int, shape: tuple[int, ...]
) -> None:
    torch.manual_seed(0)
    grid = Grid.signed(4)
    x = torch.randn(6, 8, requires_grad=True)
    scale = (torch.rand(shape) * 0.1 + 0.15).requires_grad_()
    weights = torch.randn(6, 8)
    (fake_quantize_to(x, scale, grid, axis, block) * weights).sum().backward()

    spread = scale.detach()
    if axis == 0:
        spread = spread[:, None]
    elif block:
        spread = spread.repeat_interleave(block, 1)
    ratio = x.detach() / spread
    inside = (ratio > grid.qmin) & (ratio < grid.qmax)
    assert x.grad is not None
    assert torch.equal(x.grad, weights * inside)
    slope = torch.where(inside, ratio.round() - ratio, ratio.clamp(grid.qmin, grid.qmax))
    expected = (slope * weights).reshape(*(shape if shape else (1,)), -1).sum(-1).reshape(shape)
    expected = expected / math.sqrt(48 / max(1, scale.numel()) * grid.qmax)
    torch.testing.assert_close(scale.grad, expected)


_two_steps = st.builds(
    Grid,
    st.integers(-8, 0),
    st.integers(1, 8),
    st.integers(2, 12),
    st.integers(1, 8),
    st.integers(0, 8),
)


def _over(grid: Grid, count: int, seed: int) -> torch.Tensor:
    """Random steps (count,) over the whole grid and some way beyond it."""
    low, high = 1.25 * grid.bottom - 2, 1.25 * grid.top
    drawn = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    return low + (high - low) * drawn


@given(_two_steps, st.integers(0, 10_000))
def test_of_two_steps_the_nearest_integer_is_taken(grid: Grid, seed: int) -> None:
    scale = torch.tensor(0.07)
    x = _over(grid, 500, seed) * scale
    levels = torch.tensor(grid.integers) * scale
    found = fake_quantize_to(x, scale, grid)
    assert torch.isin(found.div(scale).round(), levels.div(scale).round()).all()
    nearest = (x.unsqueeze(1) - levels).abs().amin(1)
    torch.testing.assert_close((found - x).abs(), nearest, rtol=0, atol=1e-5)


@given(_two_steps)
def test_gradients_of_two_steps_are_straight_through_and_lsq(grid: Grid) -> None:
    x = (_over(grid, 200, seed=grid.top) * 0.1).requires_grad_()
    scale = torch.tensor(0.1, requires_grad=True)
    weights = torch.randn(200, generator=torch.Generator().manual_seed(grid.top))
    found = fake_quantize_to(x, scale, grid)
    (found * weights).sum().backward()
    steps, rounded = x.detach() / 0.1, found.detach() / 0.1
    inside = (steps > grid.bottom) & (steps < grid.top)
    assert x.grad is not None
    assert torch.equal(x.grad, weights * inside)
    slope = rounded - torch.where(inside, steps, torch.zeros(()))
    expected = (slope * weights).sum() / math.sqrt(200 * grid.top)
    torch.testing.assert_close(scale.grad, expected, rtol=1e-4, atol=1e-5)


def test_operator_is_well_formed() -> None:
    x, scale = torch.randn(4, 8, requires_grad=True), torch.tensor(0.1, requires_grad=True)
    torch.library.opcheck(
        fake_quantize,
        (x, scale, -8, 7, -1, 0),
        test_utils=("test_schema", "test_faketensor", "test_autograd_registration"),
    )


def test_keeps_the_dtype_of_its_input() -> None:
    x = torch.randn(3, 4, dtype=torch.bfloat16, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    rounded = fake_quantize_to(x, scale, Grid.signed(8))
    assert rounded.dtype == torch.bfloat16
    rounded.sum().backward()
    assert x.grad is not None
    assert scale.grad is not None
    assert (x.grad.dtype, scale.grad.dtype) == (torch.bfloat16, torch.float32)


def test_freeze_changes_no_value() -> None:
    torch.manual_seed(0)
    linear = nn.Linear(8, 4)
    layer = QuantLinear(linear, Quantizer(torch.full((4,), 0.02), Grid.signed(4), 0))
    layer.input_quantizer = Quantizer(torch.tensor(0.03), Grid.signed(8))
    network = nn.Sequential(layer)
    x = torch.randn(5, 8)
    before = network(x)
    freeze(network)
    assert torch.equal(network(x), before)
    assert not any(isinstance(part, Quantizer) for part in network.modules())
    assert sum(isinstance(part, FrozenQuantizer) for part in network.modules()) == 2


def test_grids() -> None:
    assert (Grid.signed(8).qmin, Grid.signed(8).qmax) == (-128, 127)
    assert (Grid.weight(8).qmin, Grid.weight(8).qmax) == (-127, 127)
    assert (Grid.weight(4).qmin, Grid.weight(4).qmax) == (-8, 7)
    assert (Grid.shifted(4, -1).qmin, Grid.shifted(4, -1).qmax) == (-1, 14)
    assert (Grid.shifted(8, 0).qmin, Grid.shifted(8, 0).qmax) == (0, 127)


@given(low=st.integers(-200, -1))
def test_a_window_outside_int8_is_moved_into_it(low: int) -> None:
    """And the Linear's output stays what it was, up to rounding on the border of two integers."""
    generator = torch.Generator().manual_seed(low)
    linear = nn.Linear(6, 4, bias=low % 2 == 0).requires_grad_(False)
    layer = QuantLinear(linear, Quantizer(torch.full((4,), 0.01), Grid.weight(8), 0))
    layer.input_quantizer = Quantizer(torch.tensor(0.02), Grid(low, low + 255))
    x = torch.randint(low - 20, low + 275, (50, 6), generator=generator) * 0.02
    expected = layer(x)
    freeze(layer)
    frozen = layer.input_quantizer
    assert isinstance(frozen, FrozenQuantizer)
    assert (frozen.grid.qmin, frozen.grid.qmax) == (-128, 127)
    assert torch.allclose(layer(x), expected, atol=1e-4)


def test_only_the_input_of_a_linear_may_leave_int8() -> None:
    with pytest.raises(ValueError, match="cannot leave INT8"):
        freeze(nn.Sequential(Quantizer(torch.tensor(0.1), Grid(-8, 247))))


def test_under_autocast_the_result_has_its_type_and_the_gradient_the_inputs() -> None:
    x = torch.randn(4, 8, requires_grad=True)
    scale = torch.tensor(0.1, requires_grad=True)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = fake_quantize_to(x, scale, Grid.signed(8))
    found.float().sum().backward()
    assert found.dtype == torch.bfloat16
    assert x.grad is not None
    assert x.grad.dtype == torch.float32
    assert torch.equal(found, _definition(x.detach(), scale.detach(), Grid.signed(8)).bfloat16())
