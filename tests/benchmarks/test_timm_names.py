"""The scan of timm's names: what counts as a transformer, and why one is refused."""

from __future__ import annotations

import pytest

pytest.importorskip("timm", reason="the extra 'compile' is not installed")

from timm_names import Name, render, scan

NAMES = [
    "vit_tiny_patch16_224",
    "swin_tiny_patch4_window7_224",
    "vit_small_patch16_dinov3",
    "vit_small_patch16_18x2_224",
    "vit_base_patch16_xp_224",
    "vit_tiny_r_s16_p8_224",
    "cait_xxs24_224",
    "xcit_nano_12_p16_224",
    "resnet18",
    "skresnet18",
]


@pytest.fixture(scope="module")
def found() -> dict[str, Name]:
    return {each.name: each for each in scan(NAMES)}


def test_convolutional_networks_are_left_out(found: dict[str, Name]) -> None:
    assert list(found) == NAMES[:-2]


def test_families_answer(found: dict[str, Name]) -> None:
    answers = {name: (each.family, each.answers) for name, each in found.items() if each.family}
    assert answers == {
        "vit_tiny_patch16_224": ("vit", 1000),
        "swin_tiny_patch4_window7_224": ("swin", 1000),
        "vit_small_patch16_dinov3": ("eva", 384),
        "vit_small_patch16_18x2_224": ("vit", 1000),
        "vit_base_patch16_xp_224": ("vit", 1000),
        "vit_tiny_r_s16_p8_224": ("vit", 1000),
        "cait_xxs24_224": ("cait", 1000),
    }


def test_refusals_say_what_the_network_does(found: dict[str, Name]) -> None:
    assert found["xcit_nano_12_p16_224"].refused == "attends across channels"
    table = render({"timm": "1", "names": 8, "compile": 7, "seconds": 1.0}, list(found.values()))
    assert "| `xcit` | 1 | 0 |  |" in table
    assert "| `Xcit` | 1 | `xcit_nano_12_p16_224` | attends across channels |" in table
