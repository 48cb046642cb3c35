"""A network that is in memory already: timm's, transformers' or torchvision's module as it is."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.files import exhausted
from mimiq.models.families.known import FAMILIES
from mimiq.models.loaded import LoadedModel, finished
from mimiq.models.refused import unknown_family
from mimiq.models.sources import folders, timm, torchvision_networks
from mimiq.models.sources.fitting import built_size, channels_of
from mimiq.models.sources.original import Original, Request
from mimiq.models.tokens import Features
from mimiq.models.wrappers import check_same_answer, network_in, without_compilation
from mimiq.runtime.image_files import described
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output


def load_module(
    module: nn.Module,
    *,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    name: str | None = None,
    output: Output | None = None,
    features: Features = "pooled",
) -> LoadedModel:
    """A network in memory, ready for every stage; the module itself is left as it is.

    Args:
        module: a network of timm's, transformers' or torchvision's that a family here describes, on
            any device and in any mode; perhaps wrapped for several devices, by ``torch.compile``,
            or by a module that has it as its one network and answers as it does.
        preprocessing: from image file to network input. None takes timm's own, where the module
            tells it; of a module of transformers, what its type usually has.
        labels: class names in order.
        name: what to call it; None for the name of its class or of timm's architecture.
        output: ``embedding`` where what looks like a classifier is a projection; None decides by
            whether there is one.
        features: as of :func:`mimiq.load_model`.

    Raises:
        BadInput: no preprocessing is known, labels do not fit, it holds no finite weights, or it
            does more than the network inside it.
        UnsupportedModel: no family here describes it.
    """
    network, notes = network_in(module, _is_known)
    if _is_transformers(network):
        original = _transformers(network)
    elif torchvision_networks.is_one(network):
        size = None if preprocessing is None else (preprocessing.height, preprocessing.width)
        original = _timm(torchvision_networks.as_timm(network, size), preprocessing)
        original = replace(original, architecture=f"torchvision/{type(network).__name__}")
    else:
        if not _is_known(network):
            raise unknown_family(network, f"This {type(network).__name__}")
        original = _timm(network, preprocessing)
    original = replace(original, notes=(*notes, *original.notes))
    if preprocessing is not None:
        original = replace(original, preprocessing=preprocessing)
    if output is not None:
        original = replace(original, output=output)
    loaded = finished(
        original,
        name or original.architecture,
        None if labels is None else tuple(labels),
        features=features,
    )
    if notes and features == "pooled":
        check_same_answer(module, loaded.module, loaded.preprocessing.input_shape)
    return loaded


def _is_known(module: nn.Module) -> bool:
    return (
        _is_transformers(module)
        or torchvision_networks.is_one(module)
        or any(family.matches(module) for family in FAMILIES)
    )


def _is_transformers(module: nn.Module) -> bool:
    return hasattr(module, "save_pretrained") and hasattr(module, "config")


def _timm(module: nn.Module, preprocessing: Preprocessing | None) -> Original:
    config: dict[str, Any] = dict(getattr(module, "pretrained_cfg", None) or {})
    if preprocessing is None and not config.get("input_size"):
        raise BadInput(
            f"Nothing says how images come to this {type(module).__name__}.",
            "Give `preprocessing`: mimiq.Preprocessing(image_size=…, mean=…, std=…).",
        )
    copied: Any = without_compilation(module).float().cpu().eval()
    size = built_size(copied)
    if preprocessing is not None:
        _check_shape(preprocessing, channels_of(copied), size, type(module).__name__)
    classes = getattr(copied, "num_classes", None)
    return Original(
        copied,
        str(config.get("architecture") or type(module).__name__),
        preprocessing or timm.preprocessing_of(copied, image_size=size),
        output="embedding" if classes == 0 else "logits",
        structure=_structure(copied),
    )


def _check_shape(
    given: Preprocessing, channels: int, size: tuple[int, int] | None, name: str
) -> None:
    """
    Raises:
        BadInput: the network takes other images.
    """
    takes = (channels, *(size or (given.height, given.width)))
    if given.input_shape != takes:
        raise BadInput(
            f"`preprocessing` gives images of {described(given.input_shape)}, and this {name} "
            f"takes {described(takes)}.",
            "Give one mean and one std for each channel, and the size that the network was built "
            "for.",
        )


def _structure(module: nn.Module) -> str:
    """What makes the function beside the weights: the plain attributes of every part."""
    parts: dict[str, dict[str, Any]] = {}
    for name, part in module.named_modules():
        plain = {
            key: value
            for key, value in vars(part).items()
            if not key.startswith("_") and isinstance(value, bool | int | float | str | None)
        }
        parts[name] = plain | {"class": type(part).__name__}
    return json.dumps(parts, sort_keys=True)


def _transformers(module: Any) -> Original:
    """Through the files that transformers itself writes, so that one reader reads both."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        try:
            module.save_pretrained(folder, safe_serialization=True)
        except (OSError, RuntimeError, ValueError) as error:
            raise exhausted(error, "the network cannot be saved") or UnsupportedModel(
                f"transformers cannot save this {type(module).__name__}: {error}",
                "Give a network as transformers built it.",
            ) from error
        original = folders.load(Request(type(module).__name__), folder)
    # What was decided names the folder, and there is none any more.
    notes = tuple(note.replace(str(folder), "The module") for note in original.notes)
    return replace(original, notes=notes)
