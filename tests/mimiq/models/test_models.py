"""Loading: names, checkpoints in every wrapping, and each mistake with its own error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import load_model
from mimiq.models.families.known import FAMILIES

_NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    """A tiny ViT of 7 classes for 64×64 images, untrained."""
    torch.manual_seed(0)
    return timm.create_model(_NAME, num_classes=7, img_size=64).state_dict()


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_patch16_224",
        "deit_tiny_distilled_patch16_224",
        "vit_tiny_patch16_224",
        "deit3_small_patch16_224",  # layer scale, no position for the class token
        "vit_small_patch16_dinov3_qkvb.lvd1689m",
        "vit_base_patch16_clip_224",  # norm before the blocks
        "vit_medium_patch16_reg4_gap_256",  # register tokens, average pool
        "vit_small_patch16_18x2_224",
    ],
)
def test_explicit_attention_gives_timms_logits(name: str) -> None:
    torch.manual_seed(0)
    try:
        original = timm.create_model(name, num_classes=11).eval()
    except RuntimeError as error:
        pytest.skip(f"this timm has no {name}: {error}")
    family = next(family for family in FAMILIES if family.matches(original))
    images = torch.randn(2, *original.default_cfg["input_size"])
    try:
        rewritten = family.rewrite(original)
    except UnsupportedModel:
        assert name == "vit_small_patch16_18x2_224"  # parallel branches, refused by name
        return
    with torch.inference_mode():
        torch.testing.assert_close(rewritten(images), original(images), rtol=0, atol=1e-4)


def test_untrained_is_marked_and_reproducible() -> None:
    first = load_model(_NAME, untrained=True)
    assert first.untrained
    assert first.describe()["untrained"]
    assert load_model(_NAME, untrained=True).weights_hash == first.weights_hash


@pytest.mark.parametrize("wrap", ["plain", "model", "state_dict", "ema", "ddp", "safetensors"])
def test_checkpoints_in_every_wrapping(
    wrap: str, state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / ("weights.safetensors" if wrap == "safetensors" else "weights.pth")
    if wrap == "safetensors":
        save_file(state, path)
    else:
        prefixed = {f"module.{k}": v for k, v in state.items()}
        content = {
            "plain": state,
            "model": {"model": state, "epoch": 3},
            "state_dict": {"state_dict": state, "optimizer": {"lr": 0.1}},
            "ema": {"state_dict": {}, "model_ema": state},
            "ddp": {"state_dict": prefixed},
        }[wrap]
        torch.save(content, path)
    model = load_model(_NAME, weights=path)
    assert model.num_classes == 7
    assert model.preprocessing.image_size == 64
    assert not model.untrained
    assert torch.equal(model.module.get_parameter("head.weight"), state["head.weight"])


def test_same_weights_same_hash_whatever_the_file(
    state: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    save_file(state, tmp_path / "a.safetensors")
    torch.save(state, tmp_path / "b.pth")
    hashes = {load_model(_NAME, weights=p).weights_hash for p in sorted(tmp_path.iterdir())}
    assert len(hashes) == 1


def test_unknown_name_suggests_one() -> None:
    with pytest.raises(BadInput) as caught:
        load_model("deit_x")
    assert "deit_" in caught.value.next_step


def test_code_in_a_checkpoint_is_never_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (Path.touch, (tmp_path / "ran",))  # type: ignore[return-value]

    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(BadInput, match="plain tensors"):
        load_model(_NAME, weights=tmp_path / "evil.pth")
    assert not (tmp_path / "ran").exists()


def test_truncated_files(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    for path in (tmp_path / "a.pth", tmp_path / "a.safetensors"):
        if path.suffix == ".pth":
            torch.save(state, path)
        else:
            save_file(state, path)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(BadInput, match=path.name):
            load_model(_NAME, weights=path)


def test_foreign_and_misfitting_checkpoints(state: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "foreign.pth"
    torch.save(torch.nn.Linear(3, 3).state_dict(), path)
    with pytest.raises(BadInput, match="does not fit"):
        load_model(_NAME, weights=path)
    torch.save(state, path)
    with pytest.raises(BadInput, match=r"does not fit|has shape"):
        load_model("vit_small_patch16_224", weights=path)
    with pytest.raises(BadInput, match="num_classes=9"):
        load_model(_NAME, weights=path, num_classes=9)
    torch.save({"epoch": 3}, path)
    with pytest.raises(BadInput, match="no state dict"):
        load_model(_NAME, weights=path)
    torch.save(state | {"head.bias": torch.full((7,), float("nan"))}, path)
    with pytest.raises(BadInput, match="NaN"):
        load_model(_NAME, weights=path)


def test_contradictions(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="exclude"):
        load_model(_NAME, weights=tmp_path / "x", untrained=True)
    with pytest.raises(BadInput, match="does not exist"):
        load_model(_NAME, weights=tmp_path / "x.pth")
    with pytest.raises(BadInput, match="3 labels"):
        load_model(_NAME, untrained=True, labels=("a", "b", "c"))
    with pytest.raises(UnsupportedModel, match="convolutional"):
        load_model("resnet18", untrained=True)


def test_no_network_and_no_file_names_both_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, pretrained: bool = False, **__: object) -> None:
        assert pretrained
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(BadInput) as caught:
        load_model("deit_s")
    assert "`weights`" in caught.value.next_step
    assert "network" in caught.value.next_step


@pytest.mark.parametrize("given", [{"mean": (0.4,) * 3}, {"std": (0.4,) * 3}, {"crop_pct": 0.9}])
def test_the_embedded_model_has_its_own_preprocessing(given: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="as they are"):
        load_model("digits", **given)
