"""Sums that a fit is solved and judged by."""

from __future__ import annotations

import pytest
import torch

from mimiq.quantize.moments import Moments, gram


def moments(seed: int) -> Moments:
    """Of a layer whose outputs are all off by the same shift, which its bias can undo wholly."""
    drawn = torch.Generator().manual_seed(seed)
    x = torch.randn(64, 16, generator=drawn)
    x = torch.cat([x - x.mean(0), torch.ones(64, 1)], 1)
    d = torch.randn(1, 8, generator=drawn).expand(64, 8)
    return Moments((x.T @ x).double(), (d.T @ x).double(), float(d.square().sum()))


@pytest.mark.parametrize("damping", [16.0, 4.0, 0.0])
def test_the_error_that_a_perfect_fit_leaves_is_never_below_zero(damping: float) -> None:
    errors = []
    for seed in range(20):
        fitted, held_out = moments(seed), moments(seed)
        errors.append(held_out.error(fitted.solve(damping)) / held_out.power)
    assert all(0 <= error < 1e-5 for error in errors)


def test_the_error_is_that_of_the_rows() -> None:
    drawn = torch.Generator().manual_seed(0)
    x = torch.randn(64, 17, generator=drawn, dtype=torch.float64)
    d, change = (torch.randn(n, 17, generator=drawn, dtype=torch.float64) for n in (8, 8))
    d = x @ d.T + torch.randn(64, 8, generator=drawn, dtype=torch.float64)
    found = Moments(x.T @ x, d.T @ x, float(d.square().sum())).error(change)
    assert found == pytest.approx(float((d - x @ change.T).square().sum()))


def test_errors_may_be_given_by_what_makes_them_of_longer_rows() -> None:
    drawn = torch.Generator().manual_seed(0)
    z, makes = (torch.randn(n, 23, generator=drawn, dtype=torch.float64) for n in (64, 8))
    x, d = z[:, :17], z @ makes.T
    found = Moments.of(z.T @ z, makes, 17)
    torch.testing.assert_close(found.inputs, x.T @ x)
    torch.testing.assert_close(found.errors, d.T @ x)
    assert found.power == pytest.approx(float(d.square().sum()))
    rows = torch.cat([x, d], 1)
    behind = Moments.of(rows.T @ rows, None, 17)
    torch.testing.assert_close(behind.inputs, found.inputs)
    torch.testing.assert_close(behind.errors, found.errors)
    assert behind.power == pytest.approx(found.power)


@pytest.mark.parametrize("width", [1, 255, 256, 257, 600])
def test_a_gram_is_the_product_with_itself(width: int) -> None:
    x = torch.randn(32, width, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(gram(x), x.T @ x)
