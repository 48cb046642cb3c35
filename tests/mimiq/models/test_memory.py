"""Networks in memory: torchvision's, and those that something is wrapped around."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from checkpoint_files import check, drawn, said
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mimiq import Preprocessing, load_module
from mimiq.errors import BadInput, UnsupportedModel

_SIZES: dict[str, Any] = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2}
_SIZES |= {"num_heads": 2, "num_classes": 5}


@pytest.fixture(scope="module")
def network() -> Any:
    torch.manual_seed(0)
    return drawn(VisionTransformer(**_SIZES))


class Lightning(nn.Module):
    """As a training framework wraps a network."""

    def __init__(self, model: nn.Module, answer: nn.Module | None = None) -> None:
        super().__init__()
        self.model = model
        self.loss_fn = nn.CrossEntropyLoss(weight=torch.ones(5))
        self.answer = answer or nn.Identity()

    def forward(self, images: torch.Tensor) -> Any:
        return self.answer(self.model(images))


def of(size: int) -> Preprocessing:
    return Preprocessing(size, 1.0)


@pytest.mark.parametrize(
    "wrap",
    [
        nn.DataParallel,
        torch.compile,
        Lightning,
        nn.Sequential,
        lambda network: Lightning(torch.compile(network)),
        lambda network: nn.DataParallel(Lightning(network)),
    ],
    ids=["data-parallel", "compiled", "lightning", "sequential", "both", "outside"],
)
def test_wrappers_are_taken_off(wrap: Callable[[Any], Any], network: Any) -> None:
    model = load_module(wrap(network), preprocessing=of(32))
    check(model, network)
    assert "network" in said(model)
    assert not said(load_module(network, preprocessing=of(32)))


def test_blocks_that_are_compiled_one_by_one(network: Any) -> None:
    torch.manual_seed(0)
    compiled = drawn(VisionTransformer(**_SIZES))
    compiled.blocks[0] = torch.compile(compiled.blocks[0])
    check(load_module(compiled, preprocessing=of(32)), network)


@pytest.mark.parametrize(
    ("wrap", "what"),
    [
        (lambda network: Lightning(network, nn.Softmax(dim=1)), "answers otherwise"),
        (lambda network: nn.Sequential(network, nn.Linear(5, 2)), r"layers beside .* \(1\.weight"),
        (
            lambda network: nn.ModuleList([network, VisionTransformer(**_SIZES)]),
            "2 networks inside: 0, 1",
        ),
    ],
    ids=["softmax", "linear", "two"],
)
def test_what_does_more_is_refused(wrap: Callable[[Any], Any], what: str, network: Any) -> None:
    with pytest.raises(BadInput, match=what) as caught:
        load_module(wrap(network), preprocessing=of(32))
    assert caught.value.next_step


def test_what_is_no_vision_transformer_is_named() -> None:
    with pytest.raises(UnsupportedModel, match="Linear"):
        load_module(nn.Sequential(nn.Linear(2, 2))[0])


def torchvision_vit(**more: Any) -> Any:
    library = pytest.importorskip("torchvision.models")
    sizes = {"image_size": 32, "patch_size": 8, "num_layers": 2, "num_heads": 2}
    sizes |= {"hidden_dim": 32, "mlp_dim": 48, "num_classes": 5}
    torch.manual_seed(0)
    return library.VisionTransformer(**(sizes | more))


def torchvision_swin(second: bool, window: int = 4) -> Any:
    library = pytest.importorskip("torchvision.models.swin_transformer")
    torch.manual_seed(0)
    return library.SwinTransformer(
        [2, 2],
        32,
        [2, 2],
        [1, 2],
        [window, window],
        num_classes=5,
        block=library.SwinTransformerBlockV2 if second else library.SwinTransformerBlock,
        downsample_layer=library.PatchMergingV2 if second else library.PatchMerging,
    )


def test_torchvisions_vit() -> None:
    network = drawn(torchvision_vit())
    model = load_module(Lightning(network), preprocessing=of(32))
    check(model, network)
    assert (model.name, model.num_classes) == ("torchvision/VisionTransformer", 5)


def test_torchvisions_vit_with_another_classifier() -> None:
    network = torchvision_vit()
    network.heads = nn.Sequential(nn.Dropout(0.1), nn.Linear(32, 3))
    check(load_module(drawn(network), preprocessing=of(32)), network)


def test_torchvisions_vit_without_a_classifier_gives_an_embedding() -> None:
    network = torchvision_vit()
    network.heads = nn.Identity()
    model = load_module(drawn(network), preprocessing=of(32))
    check(model, network)
    assert (model.output, model.embedding_dim) == ("embedding", 32)


def test_torchvisions_vit_with_two_layers_as_its_head_is_refused() -> None:
    with pytest.raises(BadInput, match="2 layers"):
        load_module(torchvision_vit(representation_size=8), preprocessing=of(32))


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("size", [32, 16, 48])
def test_torchvisions_swin(second: bool, size: int) -> None:
    network = drawn(torchvision_swin(second))
    check(load_module(network, preprocessing=of(size)), network)


def test_torchvisions_swin_does_not_say_its_size() -> None:
    with pytest.raises(BadInput, match="how large") as caught:
        load_module(torchvision_swin(second=False))
    assert "`preprocessing`" in caught.value.next_step
