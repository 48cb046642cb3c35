"""Weights for images of another size than they were trained on, as timm itself loads them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.layers import build_sincos2d_pos_embed

from mimiq.errors import BadInput
from mimiq.models import load_model

_SMALL = {"depth": 2, "embed_dim": 96, "num_heads": 3}
_SWIN = {"embed_dim": 32, "depths": (2, 2), "num_heads": (1, 2)}
_VIT = "vit_tiny_patch16_224"
Size = int | tuple[int, int]


def trained(name: str, size: Size, kwargs: dict[str, Any], folder: Path) -> Path:
    """A file of weights, every parameter drawn; positions are alike where they are neighbours."""
    torch.manual_seed(0)
    network = timm.create_model(name, img_size=size, num_classes=5, **kwargs)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
        position = getattr(network, "pos_embed", None)
        if position is not None:
            grid = list(network.patch_embed.grid_size)
            patches = position[0, -grid[0] * grid[1] :]
            patches += build_sincos2d_pos_embed(grid, position.shape[-1])
    save_file(network.state_dict(), folder / "weights.safetensors")
    return folder / "weights.safetensors"


def as_timm_loads(path: Path, name: str, size: Size, kwargs: dict[str, Any]) -> torch.nn.Module:
    config = {"file": str(path), "num_classes": 5, "first_conv": None}
    network: torch.nn.Module = timm.create_model(
        name, pretrained=True, img_size=size, num_classes=5, pretrained_cfg_overlay=config, **kwargs
    )
    return network.eval()


@pytest.mark.filterwarnings("ignore::UserWarning")  # of torch, about timm's own loading
@pytest.mark.parametrize(
    ("name", "own", "wanted", "kwargs"),
    [
        (_VIT, 64, (96, 160), _SMALL),
        (_VIT, 64, 48, _SMALL),
        (_VIT, 64, (32, 96), _SMALL | {"in_chans": 4}),
        ("deit_tiny_distilled_patch16_224", 64, (96, 160), _SMALL),
        ("deit3_small_patch16_224", 64, (96, 160), _SMALL),
        ("vit_small_patch14_reg4_dinov2", 56, (70, 126), _SMALL),
        ("vit_base_patch16_siglip_gap_224", 64, (96, 160), _SMALL),
        ("beit_base_patch16_224", 64, (96, 160), _SMALL),
        ("eva02_tiny_patch14_224", 56, (70, 126), _SMALL),
        ("vit_small_patch16_dinov3", 64, (96, 160), _SMALL),
        ("swin_tiny_patch4_window7_224", 112, (96, 160), _SWIN),
        ("swin_tiny_patch4_window7_224", 112, (24, 48), _SWIN),  # windows larger than the grid
        ("swinv2_tiny_window8_256", 64, (64, 128), _SWIN),
    ],
)
def test_positions_are_interpolated_as_timm_does(
    name: str, own: Size, wanted: Size, kwargs: dict[str, Any], tmp_path: Path
) -> None:
    path = trained(name, own, kwargs, tmp_path)
    structure = {key: value for key, value in kwargs.items() if key != "in_chans"}
    model = load_model(name, weights=path, image_size=wanted, model_kwargs=structure)
    height, width = (wanted, wanted) if isinstance(wanted, int) else wanted
    assert model.preprocessing.input_shape == (kwargs.get("in_chans", 3), height, width)
    images = torch.randn(2, *model.preprocessing.input_shape)
    expected = as_timm_loads(path, name, wanted, kwargs)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), expected(images), rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", ["beit_base_patch16_224", "swin_tiny_patch4_window7_224"])
@pytest.mark.parametrize("size", [64, (32, 64)])
def test_tables_of_the_right_length_stay_as_they_are(name: str, size: Size, tmp_path: Path) -> None:
    kwargs = _SWIN if name.startswith("swin") else _SMALL
    path = trained(name, size, kwargs, tmp_path)
    original = timm.create_model(name, img_size=size, num_classes=5, **kwargs).eval()
    timm.models.load_checkpoint(original, str(path))
    model = load_model(name, weights=path, image_size=size, model_kwargs=kwargs)
    images = torch.randn(2, *model.preprocessing.input_shape)
    with torch.inference_mode():
        torch.testing.assert_close(model.module(images), original(images), rtol=0, atol=1e-5)
    assert not any("resized" in note for note in model.notes)


def test_as_many_patches_in_another_grid_are_interpolated(tmp_path: Path) -> None:
    """4×6 patches and 6×4: timm takes the one for the other."""
    path = trained(_VIT, (64, 96), _SMALL, tmp_path)
    model = load_model(_VIT, weights=path, image_size=(96, 64), model_kwargs=_SMALL)
    assert "from 4×6 patches to 6×4" in " ".join(model.notes)
    same = load_model(_VIT, weights=path, image_size=(64, 96), model_kwargs=_SMALL)
    assert "resized" not in " ".join(same.notes)


def test_channels_follow_the_file(tmp_path: Path) -> None:
    path = trained(_VIT, 64, _SMALL | {"in_chans": 1}, tmp_path)
    assert load_model(_VIT, weights=path, model_kwargs=_SMALL).preprocessing.channels == 1
    asked = load_model(_VIT, weights=path, model_kwargs=_SMALL | {"in_chans": 1})
    assert asked.preprocessing.channels == 1
    with pytest.raises(BadInput, match=r"1 channel, and `model_kwargs=in_chans=3`"):
        load_model(_VIT, weights=path, model_kwargs=_SMALL | {"in_chans": 3})


def test_a_size_that_patches_do_not_divide_is_refused() -> None:
    with pytest.raises(BadInput, match="100 pixels do not divide"):
        load_model(_VIT, untrained=True, image_size=(96, 100))
