"""Hugging Face's ``preprocessor_config.json`` as :class:`Preprocessing`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import Preprocessing

# Pillow's numbers for its filters.
_FILTERS = {0: "nearest", 1: "lanczos", 2: "bilinear", 3: "bicubic"}
_WITHOUT_COUNTERPART = (
    "do_pad",
    "do_flip_channel_order",
    "do_thumbnail",
    "do_align_long_axis",
    "rescale_offset",
)
# These read a size of one number as that of the short side; all others as that of both sides.
_SHORT_SIDE = ("CLIP", "Bit", "ChineseCLIP", "ConvNext")


def preprocessing(config: Mapping[str, Any], default: tuple[int, int], path: Path) -> Preprocessing:
    """
    Args:
        config: what the file holds.
        default: height and width of the network's input, where the file has none.
        path: the file, for messages.

    Raises:
        BadInput: the processor does what has no counterpart here.
    """
    config = {key: value for key, value in config.items() if value is not None}
    for key in _WITHOUT_COUNTERPART:
        if config.get(key):
            raise BadInput(
                f"{path}: images are prepared with {key}, which mimiq does not do.",
                "Give the network as a weights file with `mean`, `std` and `crop_pct`.",
            )
    kind = str(config.get("image_processor_type") or config.get("feature_extractor_type") or "")
    try:
        mean, std = _normalisation(config)
        height, width, size, mode = _sizes(config, default, kind, path)
    except (TypeError, ValueError, KeyError) as error:
        raise BadInput(
            f"{path} cannot be read: {type(error).__name__}: {error}",
            "Correct the file, or save the image processor again.",
        ) from error
    return Preprocessing(
        image_size=(height, width),
        crop_pct=crop_share(height if mode == "squash" else min(height, width), size),
        interpolation=_filter(config.get("resample", 2), path),
        mean=mean,
        std=std,
        crop_mode=mode,
    )


def _normalisation(config: Mapping[str, Any]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    mean = tuple(float(value) for value in _listed(config.get("image_mean", (0.5,) * 3)))
    std = tuple(float(value) for value in _listed(config.get("image_std", (0.5,) * 3)))
    if config.get("do_normalize") is False:
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    # Here pixels lie in [0, 1]; there they are multiplied by the factor first.
    factor = 1.0 if config.get("do_rescale") is False else config.get("rescale_factor", 1 / 255)
    scale = 255.0 * float(factor)
    if math.isclose(scale, 1.0, rel_tol=1e-3):
        return mean, std
    return tuple(value / scale for value in mean), tuple(value / scale for value in std)


def _sizes(
    config: Mapping[str, Any], default: tuple[int, int], kind: str, path: Path
) -> tuple[int, int, int, str]:
    """Height and width of the input, the resized side that the crop is cut from, and the mode."""
    size = config.get("size")
    if size is None or config.get("do_resize") is False:
        if config.get("do_resize") is False:
            raise BadInput(
                f"{path}: images are not resized, so that the network has no fixed input.",
                "Give it a size: do_resize and size.",
            )
        size = {"height": default[0], "width": default[1]}
    if isinstance(size, int | float):
        by_short_side = kind.startswith(_SHORT_SIDE)
        size = {"shortest_edge": size} if by_short_side else {"height": size, "width": size}
    if not isinstance(size, Mapping):
        raise TypeError(f"size is {size!r}")
    crops = config.get("do_center_crop") and config.get("crop_size") is not None
    crop = config.get("crop_size") if crops else None
    if isinstance(crop, int | float):
        crop = {"height": crop, "width": crop}
    if "shortest_edge" in size:
        short = int(size["shortest_edge"])
        share = config.get("crop_pct")
        if crop is None and share:  # ConvNeXt's: the size is the input's, and the share enlarges it
            return short, short, int(short / share), "center"
        if crop is None:
            return (*default, short, "center")
        return int(crop["height"]), int(crop["width"]), short, "center"
    if "height" not in size or "width" not in size:
        raise BadInput(
            f"{path}: a size of {dict(size)} gives the network no fixed input.",
            "Give height and width, or shortest_edge with crop_size.",
        )
    height, width = int(size["height"]), int(size["width"])
    if crop is None:
        return height, width, height, "squash"
    wanted = (int(crop["height"]), int(crop["width"]))
    if wanted[0] * width != wanted[1] * height:
        raise BadInput(
            f"{path}: a crop of {wanted} from {(height, width)} cuts the sides by other shares.",
            "Give a crop_size of the same proportions as size.",
        )
    return (*wanted, height, "squash")


def crop_share(side: int, resized: int) -> float:
    """The share of which ``floor(side / share)`` is the resized side, to the pixel."""
    share = min(1.0, side / resized)
    if math.floor(side / share) < resized:
        share = math.nextafter(share, 0.0)
    return share


def _filter(number: Any, path: Path) -> str:
    if str(number).lower() in _FILTERS.values():
        return str(number).lower()
    if number not in _FILTERS:
        raise BadInput(
            f"{path}: resample {number!r} is unknown.",
            f"Give one of {', '.join(f'{key} ({name})' for key, name in _FILTERS.items())}.",
        )
    return _FILTERS[number]


def _listed(value: Any) -> Any:
    return value if isinstance(value, list | tuple) else [value] * 3
