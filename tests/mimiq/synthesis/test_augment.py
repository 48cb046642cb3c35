"""The random views of synthesis."""

from __future__ import annotations

import math

import pytest
import torch

from mimiq.config.synthesis import Augmentation
from mimiq.synthesis.augment import augment

OFF = Augmentation(roll=(0, 0), shift_noise=0, jitter=0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def images() -> torch.Tensor:
    return torch.randn(4, 3, 12, 12, generator=generator(9))


def test_switched_off_it_is_the_identity(images: torch.Tensor) -> None:
    assert torch.equal(augment(images, OFF, 0.3, generator()), images)


def test_the_same_generator_state_gives_the_same_view(images: torch.Tensor) -> None:
    full = Augmentation()
    first = augment(images, full, 0.3, generator())
    assert torch.equal(first, augment(images, full, 0.3, generator()))
    assert not torch.equal(first, augment(images, full, 0.3, generator(1)))


@pytest.mark.parametrize(("progress", "reach"), [(0.0, 2), (0.49, 2), (0.5, 4), (0.99, 4)])
def test_roll_reaches_as_far_as_its_half_allows(progress: float, reach: int) -> None:
    position = torch.zeros(1, 1, 12, 12)
    position[0, 0, 6, 6] = 1
    rolled_to = set()
    draws = generator()
    for _ in range(400):
        view = augment(position, Augmentation((2, 4), 0, 0), progress, draws)
        down, right = divmod(int(view.argmax()), 12)
        rolled_to |= {down - 6, right - 6}
    assert rolled_to == set(range(-reach, reach + 1))


@pytest.mark.parametrize("progress", [0.0, 0.5, 0.9])
def test_shift_noise_is_constant_over_an_image_and_fades(progress: float) -> None:
    images = torch.zeros(2000, 3, 2, 2)
    view = augment(images, Augmentation((0, 0), 0.5, 0), progress, generator())
    assert torch.equal(view, view[:, :, :1, :1].expand_as(view))
    assert float(view.std()) == pytest.approx(0.5 * (1 - progress), rel=0.05)
    assert float(view.mean()) == pytest.approx(0, abs=0.02)


def test_jitter_scales_and_moves_each_channel() -> None:
    """(x − m)/s: two pixels of each channel tell m and s."""
    images = torch.tensor([0.0, 1.0]).expand(3000, 3, 1, 2)
    view = augment(images, Augmentation((0, 0), 0, 1.0), 0.0, generator())
    inverse_scale = view[..., 1] - view[..., 0]
    log_scale = -inverse_scale.log()
    offset = -view[..., 0] / inverse_scale
    for drawn in (log_scale, offset):
        assert -1 <= float(drawn.min()) < -0.99
        assert 0.99 < float(drawn.max()) <= 1 + 1e-5
        assert float(drawn.std()) == pytest.approx(1 / math.sqrt(3), rel=0.03)  # uniform
    assert abs(float(torch.corrcoef(torch.stack([log_scale, offset]).flatten(1))[0, 1])) < 0.05


def test_every_call_draws_the_same_amount(images: torch.Tensor) -> None:
    on, off = generator(), generator()
    augment(images, Augmentation(), 0.7, on)
    augment(images, OFF, 0.0, off)
    assert torch.equal(on.get_state(), off.get_state())


def test_gradient_flows_back_to_the_pixels(images: torch.Tensor) -> None:
    leaf = images.double().requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: augment(x, Augmentation((2, 4)), 0.6, generator()), (leaf,)
    )
