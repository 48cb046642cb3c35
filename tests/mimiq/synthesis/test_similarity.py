"""The Gram-matrix similarity against its definition: values, gradients, numerics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiq.synthesis import similarity
from mimiq.synthesis.similarity import (
    inter_head_loss,
    inter_head_loss_definition,
    inter_head_similarity,
    mean_off_diagonal,
)

shapes = st.tuples(
    st.integers(1, 3), st.integers(1, 5), st.integers(1, 6), st.integers(2, 12)
)  # images, heads, queries, keys


def random_scores(shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 5


def value_and_gradient(loss, scores: torch.Tensor, **kwargs) -> tuple[torch.Tensor, torch.Tensor]:
    leaf = scores.detach().requires_grad_()
    value = loss(leaf, **kwargs)
    (gradient,) = torch.autograd.grad(1.7 * value, leaf)
    return value.detach(), gradient


def assert_same_as_definition(scores: torch.Tensor, **kwargs) -> None:
    value, gradient = value_and_gradient(inter_head_loss, scores, **kwargs)
    wanted, wanted_gradient = value_and_gradient(inter_head_loss_definition, scores, **kwargs)
    torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-13)
    # A gradient that is zero in exact arithmetic (two keys) is a difference of terms like 1/range.
    torch.testing.assert_close(gradient, wanted_gradient, rtol=1e-9, atol=1e-10)


@given(shape=shapes, seed=st.integers(0, 2**16), prefix=st.integers(0, 2))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition(shape, seed, prefix) -> None:
    images, heads, queries, keys = shape
    scores = random_scores((images, heads, queries + prefix, keys + prefix), seed)
    assert_same_as_definition(scores, prefix_tokens=prefix)


@given(shape=shapes, seed=st.integers(0, 2**16), levels=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_equals_the_definition_on_ties_and_constant_maps(shape, seed, levels) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randint(levels, shape, generator=generator).double()
    assert_same_as_definition(scores)


@pytest.mark.parametrize("limit", [1, 400, 2000])
def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
    scores = random_scores((3, 4, 5, 6))
    whole = value_and_gradient(inter_head_loss, scores)
    monkeypatch.setitem(similarity._CHUNK_BYTES, "cpu", limit)
    assert len(list(similarity._chunks(scores))) > 1
    parts = value_and_gradient(inter_head_loss, scores)
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)


def test_any_strides() -> None:
    scores = random_scores((2, 9, 8, 3)).permute(0, 3, 1, 2)
    assert not scores.is_contiguous()
    assert_same_as_definition(scores[:, :, 1:, ::2])


def test_prefix_tokens_are_cut_away_and_get_no_gradient() -> None:
    scores = random_scores((2, 3, 7, 7))
    value, gradient = value_and_gradient(inter_head_loss, scores, prefix_tokens=2)
    cut, cut_gradient = value_and_gradient(inter_head_loss, scores[:, :, 2:, 2:])
    assert value == cut
    assert torch.equal(gradient[:, :, 2:, 2:], cut_gradient)
    assert not gradient[:, :, :2].any()
    assert not gradient[:, :, :, :2].any()


def test_gradcheck() -> None:
    scores = random_scores((2, 3, 3, 6)).requires_grad_()
    assert torch.autograd.gradcheck(lambda s: inter_head_loss(s, prefix_tokens=1), (scores,))


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
def test_fp32_holds_far_from_zero(offset: float) -> None:
    """Maps whose mean is thousands of times their range: E[xy] − E[x]E[y] would be noise here."""
    scores = (random_scores((2, 3, 10, 50)) + offset).float()
    value, gradient = value_and_gradient(inter_head_loss, scores)
    wanted, wanted_gradient = value_and_gradient(inter_head_loss_definition, scores.double())
    assert value.dtype == gradient.dtype == torch.float32
    torch.testing.assert_close(value.double(), wanted, rtol=2e-5, atol=1e-6)
    error = (gradient.double() - wanted_gradient).abs().max() / wanted_gradient.abs().max()
    assert error < (1e-5 if offset == 0 else 2e-3)


@pytest.mark.parametrize("autocast", [False, True])
def test_bf16_scores_are_computed_in_fp32(autocast: bool) -> None:
    scores = random_scores((2, 3, 10, 50)).bfloat16()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        value, gradient = value_and_gradient(inter_head_loss, scores)
    wanted, wanted_gradient = value_and_gradient(inter_head_loss, scores.float())
    assert value == wanted
    assert gradient.dtype == torch.bfloat16
    assert torch.equal(gradient, wanted_gradient.bfloat16())


def test_a_constant_map_has_no_gradient_and_no_nan() -> None:
    scores = random_scores((2, 3, 4, 5)).float()
    scores[:, 1] = 7.3
    value, gradient = value_and_gradient(inter_head_loss, scores)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()
    assert not gradient[:, 1].any()
    assert gradient[:, 0].any()


def test_scale_and_offset_of_a_head_do_not_matter() -> None:
    scores = random_scores((2, 3, 4, 9))
    changed = scores * torch.tensor([0.1, 1.0, 30.0], dtype=torch.float64)[:, None, None] - 4
    torch.testing.assert_close(inter_head_loss(changed), inter_head_loss(scores))


def test_equal_and_opposite_heads_are_alike() -> None:
    ramp = torch.linspace(-1, 1, 11)
    equal = torch.stack([ramp, 5 * ramp, ramp + 2]).expand(2, 4, 3, 11).transpose(1, 2)
    assert float(inter_head_loss(equal)) == pytest.approx(0, abs=1e-6)
    # C2 keeps a little distance between a map and its negative.
    opposite = torch.stack([ramp, -ramp]).expand(2, 4, 2, 11).transpose(1, 2)
    assert float(inter_head_loss(opposite)) < 0.02
    assert float(inter_head_loss(random_scores((2, 3, 4, 50)))) > 0.3


def test_one_head_has_nothing_to_compare() -> None:
    scores = random_scores((2, 1, 4, 5))
    value, gradient = value_and_gradient(inter_head_loss, scores)
    assert float(value) == pytest.approx(0, abs=1e-12)
    assert float(gradient.abs().max()) < 1e-12
    assert mean_off_diagonal(inter_head_similarity(scores)).isnan().all()


def test_descent_makes_heads_alike() -> None:
    scores = random_scores((2, 3, 8, 20)).float().requires_grad_()
    optimizer = torch.optim.Adam([scores], lr=0.1)
    before = float(inter_head_loss(scores.detach()))
    for _ in range(60):
        optimizer.zero_grad()
        inter_head_loss(scores).backward()
        optimizer.step()
    assert float(inter_head_loss(scores.detach())) < 0.3 * before


def test_similarity_is_the_mean_absolute_ssim() -> None:
    scores = random_scores((2, 3, 5, 9))
    maps = scores[:, :, 1:, 1:]
    maps = maps - maps.amin(-1, keepdim=True)
    maps = maps / maps.amax(-1, keepdim=True)
    wanted = torch.zeros(2, 3, 3, dtype=torch.float64)
    for h in range(3):
        for g in range(3):
            a, b = maps[:, h], maps[:, g]
            mean_a, mean_b = a.mean(-1), b.mean(-1)
            cov = (a * b).mean(-1) - mean_a * mean_b
            ssim = (2 * mean_a * mean_b + 1e-4) * (2 * cov + 9e-4)
            ssim /= mean_a**2 + mean_b**2 + 1e-4
            ssim /= a.var(-1, correction=0) + b.var(-1, correction=0) + 9e-4
            wanted[:, h, g] = ssim.abs().mean(-1)
    found = inter_head_similarity(scores, prefix_tokens=1)
    torch.testing.assert_close(found, wanted)
    off = [(h, g) for h in range(3) for g in range(3) if h != g]
    mean = torch.stack([wanted[:, h, g] for h, g in off]).mean(0)
    torch.testing.assert_close(mean_off_diagonal(found), mean)


def test_second_derivatives_are_refused() -> None:
    scores = random_scores((1, 2, 3, 4)).requires_grad_()
    loss = inter_head_loss(scores).square()
    (gradient,) = torch.autograd.grad(loss, scores, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        gradient.sum().backward()
