"""All of timm's preprocessing is carried: for every ViT tag, the pixels of timm's transform."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import timm
from PIL import Image
from timm.data import create_transform, resolve_data_config

from mimiq.models import load_model
from mimiq.models.sources.timm import preprocessing_of

MODULES = (
    "vision_transformer",
    "deit",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "eva",
    "beit",
    "cait",
    "swin_transformer",
    "swin_transformer_v2",
)


def configurations() -> dict[str, tuple[dict[str, Any], list[str]]]:
    """timm's preprocessing of every tag, each kind once, with the tags that have it."""
    kinds: dict[str, tuple[dict[str, Any], list[str]]] = defaultdict(lambda: ({}, []))
    for module in MODULES:
        for tag in timm.list_models(module=module, pretrained=True):
            config = timm.get_pretrained_cfg(tag).to_dict()
            kept = {
                key: config.get(key)
                for key in ("input_size", "crop_pct", "crop_mode", "interpolation", "mean", "std")
            }
            kind, tags = kinds[str(sorted(kept.items()))]
            kind.update(config)
            tags.append(tag)
    return dict(kinds)


KINDS = list(configurations().values())


def test_there_are_tags_of_every_crop_mode() -> None:
    modes: dict[str, int] = defaultdict(int)
    for config, tags in KINDS:
        modes[config.get("crop_mode") or "center"] += len(tags)
    assert modes["squash"] >= 17
    assert modes["center"] > 300


@pytest.mark.parametrize(("config", "tags"), KINDS, ids=[tags[0] for _, tags in KINDS])
def test_pixels_are_timms(config: dict[str, Any], tags: list[str]) -> None:
    network: Any = SimpleNamespace(pretrained_cfg=config)
    preprocessing = preprocessing_of(network)
    transform = create_transform(**resolve_data_config({}, pretrained_cfg=config))
    pixels = np.random.default_rng(0).integers(0, 256, (301, 463, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = preprocessing.normalize(preprocessing.crop(image)[None])[0]
    np.testing.assert_allclose(ours, transform(image).numpy(), rtol=0, atol=1e-6)


def test_a_loaded_network_has_its_tags_preprocessing() -> None:
    tag = "vit_base_patch32_clip_384.laion2b_ft_in12k_in1k"
    preprocessing = load_model(tag, untrained=True).preprocessing
    config = timm.get_pretrained_cfg(tag)
    assert (preprocessing.crop_mode, preprocessing.crop_pct) == (config.crop_mode, config.crop_pct)
    assert preprocessing.mean == config.mean
