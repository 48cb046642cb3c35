"""Total variation against its formula, and what it means at other batch sizes."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiq.synthesis import total_variation as module
from mimiq.synthesis.total_variation import total_variation


def formula(images: torch.Tensor, diagonal_weight: float) -> torch.Tensor:
    """As published, over the whole batch."""
    horizontal = (images[..., :, 1:] - images[..., :, :-1]).norm()
    vertical = (images[..., 1:, :] - images[..., :-1, :]).norm()
    falling = (images[..., 1:, 1:] - images[..., :-1, :-1]).norm()
    rising = (images[..., 1:, :-1] - images[..., :-1, 1:]).norm()
    return horizontal + vertical + diagonal_weight * (falling + rising)


def value_and_gradient(loss, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = images.detach().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(3 * value, leaf)
    return value.detach(), gradient


@given(
    st.tuples(st.integers(1, 3), st.integers(1, 3), st.integers(2, 6), st.integers(2, 6)),
    st.integers(0, 2**16),
    st.sampled_from([math.sqrt(0.5), 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_equals_the_formula_at_the_batch_it_was_given_for(shape, seed, diagonal) -> None:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(shape, generator=generator, dtype=torch.float64)
    found = value_and_gradient(
        lambda x: total_variation(x, batch_meant=len(x), diagonal_weight=diagonal), images
    )
    wanted = value_and_gradient(lambda x: formula(x, diagonal), images)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_parts_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    images = torch.randn(5, 3, 8, 8, dtype=torch.float64)
    monkeypatch.setitem(module._CHUNK_BYTES, "cpu", 1)
    assert len(list(module._parts(images))) == 5
    found = value_and_gradient(lambda x: total_variation(x, batch_meant=5), images)
    wanted = value_and_gradient(lambda x: formula(x, math.sqrt(0.5)), images)
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_balance_with_mean_losses_does_not_depend_on_the_batch() -> None:
    """Four times the batch, same images: same value, and a quarter of each image's gradient."""
    images = torch.randn(4, 3, 8, 8, dtype=torch.float64)
    once = value_and_gradient(lambda x: total_variation(x, batch_meant=16), images)
    four = value_and_gradient(
        lambda x: total_variation(x, batch_meant=16), images.repeat(4, 1, 1, 1)
    )
    torch.testing.assert_close(four[0], once[0])
    torch.testing.assert_close(4 * four[1][:4], once[1])


def test_a_flat_image_has_no_gradient() -> None:
    images = torch.full((2, 3, 4, 4), 0.7)
    value, gradient = value_and_gradient(lambda x: total_variation(x, batch_meant=2), images)
    assert float(value) == 0
    assert not gradient.any()
