"""torchvision's ViT and Swin: logits and pixels against torchvision itself."""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from mimiq.errors import BadInput
from mimiq.models import load_model

torchvision = pytest.importorskip("torchvision")


def network(**kwargs: Any) -> Any:
    from torchvision.models import VisionTransformer

    torch.manual_seed(0)
    settings = {"image_size": 64, "patch_size": 16, "num_layers": 12, "num_heads": 3}
    settings |= {"hidden_dim": 192, "mlp_dim": 768, "num_classes": 5}
    module = VisionTransformer(**(settings | kwargs)).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def check(original: nn.Module, path: Path) -> None:
    torch.save(original.state_dict(), path)
    model = load_model("vit_t", weights=path)
    images = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images), rtol=0, atol=1e-4)
    assert "torchvision" in "\n".join(model.notes)


def test_logits(tmp_path: Path) -> None:
    check(network(), tmp_path / "weights.pth")


@pytest.mark.parametrize("sequential", [False, True])
def test_another_classifier_in_place_of_its_own(sequential: bool, tmp_path: Path) -> None:
    original = network()
    head = nn.Linear(192, 7)
    original.heads = nn.Sequential(head) if sequential else head
    check(original, tmp_path / "weights.pth")


def test_the_mlps_older_names(tmp_path: Path) -> None:
    original = network()
    older = OrderedDict(
        (name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), tensor)
        for name, tensor in original.state_dict().items()
    )
    torch.save(older, tmp_path / "older.pth")
    model = load_model("vit_t", weights=tmp_path / "older.pth")
    images = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images), rtol=0, atol=1e-4)


def test_a_head_of_two_layers_is_named(tmp_path: Path) -> None:
    torch.save(network(representation_size=16).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(BadInput, match="2 layers"):
        load_model("vit_t", weights=tmp_path / "weights.pth")


@pytest.mark.parametrize("name", ["vit_b_32", "swin_t", "swin_v2_t"])
def test_pixels_of_its_own_names(name: str) -> None:
    from torchvision.models import get_model_weights

    preprocessing = load_model(name, untrained=True).preprocessing
    transform = next(iter(get_model_weights(name))).transforms()
    pixels = np.random.default_rng(0).integers(0, 256, (301, 463, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = preprocessing.normalize(preprocessing.crop(image)[None])[0]
    np.testing.assert_allclose(ours, transform(image).numpy(), rtol=0, atol=1e-5)


def swin(name: str, window: int) -> Any:
    from torchvision.models import swin_transformer as library

    second = "v2" in name
    torch.manual_seed(0)
    module = library.SwinTransformer(
        [4, 4],
        96,
        [2, 1, 1, 1],
        [3, 6, 12, 24],
        [window, window],
        num_classes=5,
        block=library.SwinTransformerBlockV2 if second else library.SwinTransformerBlock,
        downsample_layer=library.PatchMergingV2 if second else library.PatchMerging,
    ).eval()
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


@pytest.mark.parametrize(
    ("name", "window", "size"),
    [("swin_t", 7, 224), ("swin_t", 7, 56), ("swin_v2_t", 8, 256), ("swin_v2_t", 8, 96)],
)
def test_swin(name: str, window: int, size: int, tmp_path: Path) -> None:
    original = swin(name, window)
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"model.{k}": v for k, v in original.state_dict().items()}}, path)
    model = load_model(name, weights=path, image_size=size, model_kwargs={"depths": (2, 1, 1, 1)})
    images = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images), rtol=0, atol=1e-4)
    assert "torchvision" in "\n".join(model.notes)


def test_swins_windows_that_are_filled_up_otherwise_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(swin("swin_t", 7).state_dict(), path)
    with pytest.raises(BadInput, match="fills them up"):
        load_model("swin_t", weights=path, image_size=128, model_kwargs={"depths": (2, 1, 1, 1)})


def test_no_network_names_both_ways_out(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(BadInput, match="no route to host") as caught:
        load_model("vit_b_16")
    assert "`weights`" in caught.value.next_step
