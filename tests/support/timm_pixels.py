"""timm's pixels, which ours are compared with."""

from __future__ import annotations

from typing import Any

import pytest

from mimiq.runtime.preprocessing import Preprocessing


def timm_transform(preprocessing: Preprocessing) -> Any:
    """timm's transform of evaluation for the same preprocessing."""
    pytest.importorskip("timm")
    from timm.data import create_transform

    return create_transform(
        (3, preprocessing.height, preprocessing.width),
        is_training=False,
        interpolation=preprocessing.interpolation,
        crop_pct=preprocessing.crop_pct,
        crop_mode=preprocessing.crop_mode,
        mean=preprocessing.mean,
        std=preprocessing.std,
    )
