"""The scale of a Linear's input by the error of its output."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiq.calibrate.observers import MinMaxObserver
from mimiq.calibrate.output_error import ROWS, SLACK, OutputErrorObserver
from mimiq.quantize.fake_quant import Grid, fake_quantize

INT8, INT4 = Grid(-128, 127), Grid(-8, 7)


def _observed(weight: torch.Tensor, x: torch.Tensor) -> OutputErrorObserver:
    observer = OutputErrorObserver(weight)
    observer.update(x)
    return observer


@pytest.mark.parametrize("outputs", [3, 40])
def test_error_is_that_of_the_layers_output(outputs: int) -> None:
    generator = torch.Generator().manual_seed(0)
    weight, x = (
        torch.randn(outputs, 8, generator=generator),
        torch.randn(64, 8, generator=generator),
    )
    scale = torch.tensor(0.3)
    rounded = fake_quantize(x, scale, INT4.qmin, INT4.qmax, -1, 0)
    squared = ((rounded - x) @ weight.T).square().sum(1)
    found = _observed(weight, x).error(scale, INT4)
    # For more outputs than inputs the error is measured in a basis of min(outputs, inputs).
    assert found * min(outputs, 8) == pytest.approx(float(squared.mean()), rel=1e-4)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**16), bits=st.sampled_from([2, 4, 8]))
def test_never_worse_than_the_exact_range(seed: int, bits: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(5, 16, generator=generator)
    x = torch.randn(200, 16, generator=generator) ** 3
    observer, exact = _observed(weight, x), MinMaxObserver()
    exact.update(x)
    grid = Grid.signed(bits)
    assert observer.scale(grid) <= exact.scale(grid) * (1 + 1e-6)
    chosen, whole = (observer.error(one.scale(grid), grid) for one in (observer, exact))
    assert chosen <= whole * SLACK


def test_outliers_are_clipped_where_no_weight_reads_them() -> None:
    """The same activation, and all the difference is whether its outlier channel matters."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(256, 8, generator=generator)
    x[:, 0] *= 30
    read, unread = torch.ones(4, 8), torch.ones(4, 8)
    unread[:, 0] = 0
    assert _observed(unread, x).scale(INT8) < _observed(read, x).scale(INT8) / 4


def test_memory_does_not_grow_and_every_row_may_stay() -> None:
    observer = OutputErrorObserver(torch.eye(2))
    for index in range(40):
        observer.update(torch.full((3, 100, 2), float(index)))
    rows = observer._rows[:, 0]
    assert len(rows) == ROWS
    assert len(rows.unique()) > 30
    # The range is exact all the same.
    assert float(observer._range.scale(INT8)) == pytest.approx(39 / 127)
