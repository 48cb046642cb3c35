"""Steps that look at some patches only: which networks bear it, and that all of an image moves."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from family_networks import EXAMPLES
from networks import as_loaded

from mimiq.config.synthesis import SYNTHESIS_RECIPES, Augmentation
from mimiq.models import LoadedModel
from mimiq.synthesis.mimiq import mimiq_objective
from mimiq.synthesis.objective import draw_batch, make_teacher
from mimiq.synthesis.sparse import Patches, patches_of, run_steps

CPU = torch.device("cpu")
SPARSE = {"vit", "deit3", "post-norm", "dinov2-giant", "aimv2", "parallel", "cait", "hybrid"}
DENSE = {"beit", "beit-shared", "relpos", "eva02", "dinov3", "rope-mixed", "swin", "swin-v2"}


def test_half_the_patches_and_all_of_the_prefix_are_drawn() -> None:
    generator = torch.Generator().manual_seed(0)
    patches = Patches(prefix=2, tokens=18)
    first, second = (patches.drawn(0.5, generator) for _ in range(2))
    for drawn in (first, second):
        assert drawn[:2].tolist() == [0, 1]
        assert len(drawn) == 10
        assert (drawn.diff() > 0).all()
    assert not torch.equal(first, second)


def test_one_patch_at_least_is_drawn() -> None:
    assert len(Patches(prefix=0, tokens=16).drawn(0.001, torch.Generator())) == 1


@pytest.mark.parametrize("name", sorted(SPARSE | DENSE))
def test_a_network_that_knows_patches_by_their_place_sees_all(name: str) -> None:
    torch.manual_seed(0)
    model = as_loaded(EXAMPLES[name]().eval())
    network = model.module
    images = torch.randn(2, *model.preprocessing.input_shape)
    found = patches_of(model)
    assert (found is not None) == (name in SPARSE)
    steps = model.family.steps(network)
    torch.testing.assert_close(run_steps(steps, images, None), network(images))
    if found is not None:
        every = torch.arange(found.tokens)
        torch.testing.assert_close(run_steps(steps, images, every), network(images))
        some = found.drawn(0.5, torch.Generator().manual_seed(0))
        assert run_steps(steps, images, some).shape == network(images).shape


def test_every_patch_of_an_image_moves(small_vit: LoadedModel) -> None:
    recipe = replace(
        SYNTHESIS_RECIPES["tiny"],
        images=2,
        batch_size=2,
        iterations=12,
        seen=0.5,
        tv_weight=0.0,
        augmentation=Augmentation(roll=(0, 0), shift_noise=0.0, jitter=0.0),
    )
    batch = draw_batch(small_vit, 2, 0, 0, CPU)
    before = batch.images.detach().clone().clamp(batch.low, batch.high)
    for _ in mimiq_objective(make_teacher(small_vit, CPU), recipe)(batch):
        pass
    moved = (batch.images.detach() - before).abs().amax(1)
    assert (moved.unfold(1, 8, 8).unfold(2, 8, 8).amax((-1, -2)) > 0.01).all()
