"""timm's networks: by name with its own weights, or with those of a file."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.files import exhausted
from mimiq.libraries import hushed
from mimiq.models import checkpoint
from mimiq.models.sources import explain, fitting, layouts
from mimiq.models.sources.fitting import as_argument, built_size, channels_of
from mimiq.models.sources.original import Original, Request
from mimiq.runtime.preprocessing import IMAGENET_MEAN, IMAGENET_STD, Preprocessing
from mimiq.runtime.session import Output

_EXAMPLE = "Choose a ViT or DeiT from timm, e.g. deit_s."


def is_known(name: str) -> bool:
    """Whether timm has an architecture of this name, its tag aside."""
    import timm

    return bool(timm.is_model(name.split(".")[0]))


def load(
    request: Request,
    architecture: str,
    *,
    weights: Path | None = None,
    overlay: Mapping[str, Any] | None = None,
    model_args: Mapping[str, Any] | None = None,
) -> Original:
    """The network of this name.

    Args:
        request: what the user asked for.
        architecture: timm's name.
        weights: the file to read; None for timm's own weights, or random ones.
        overlay, model_args: what a folder that timm saved says of preprocessing and structure.

    Raises:
        BadInput: the weights cannot be read or downloaded, or are those of another network.
        UnsupportedModel: timm cannot build the network as it is asked for.
    """
    kwargs = dict(model_args or {}) | dict(request.model_kwargs)
    request = replace(request, model_kwargs=kwargs)
    common = {"pretrained_cfg_overlay": dict(overlay)} if overlay else {}
    given: dict[str, Any] = {}
    if request.num_classes is not None:
        given["num_classes"] = request.num_classes
    notes: tuple[str, ...] = ()
    facts: dict[str, Any] = {}
    projects = _may_project(architecture)
    if weights is not None:
        base = build(request.name, architecture, kwargs | common, meta=True)
        found = layouts.read_network(weights, base, request.ema, request.name)
        projects = projects or found.projection
        state, sized, notes = fitting.fitted(found, base, request, weights)
        kwargs = sized | kwargs
        module = build(request.name, architecture, given | kwargs | common)
        state, said = fitting.resized_biases(state, module)
        notes += said
        error = explain.misfit(state, module.state_dict(), weights, request.name)
        if error is not None:
            raise error
        checkpoint.load_into(module, state, weights, request.name)
        if found.epsilon is not None:
            facts = {"eps": found.epsilon}
            for part in module.modules():
                if isinstance(part, nn.LayerNorm):
                    part.eps = found.epsilon
        notes += (_unsaid(module, weights),)
    else:
        if request.image_size is not None:
            given["img_size"] = as_argument(request.image_size)
        if not request.untrained:
            _check_pretrained(request, architecture)
        module = build(
            request.name, architecture, given | kwargs | common, pretrained=not request.untrained
        )
    return Original(
        module,
        architecture,
        preprocessing_of(module, image_size=built_size(module)),
        labels=_labels(overlay, module),
        output=_output(module, projects and request.num_classes is None),
        structure=_structure(dict(request.model_kwargs) | facts, module),
        notes=notes,
    )


def build(
    name: str,
    architecture: str,
    kwargs: Mapping[str, Any],
    *,
    pretrained: bool = False,
    meta: bool = False,
) -> nn.Module:
    """timm's network, in eval mode; random values are those of seed 0.

    Args:
        name: as the user wrote it.
        architecture: timm's name.
        kwargs: arguments of its constructor.
        pretrained: with timm's own weights, downloaded.
        meta: without values, for its shapes alone.

    Raises:
        BadInput: the weights could not be downloaded.
        UnsupportedModel: timm cannot build it so.
    """
    import timm

    # timm and its hub client warn about retries at length; our error says what is needed.
    quiet = hushed("timm", "huggingface_hub", level=logging.CRITICAL)
    try:
        with quiet, torch.random.fork_rng(devices=[]), torch.device("meta" if meta else "cpu"):
            torch.manual_seed(0)
            module: nn.Module = timm.create_model(architecture, pretrained=pretrained, **kwargs)
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if not pretrained:
            shown = {key: value for key, value in kwargs.items() if key != "pretrained_cfg_overlay"}
            raise exhausted(error, f"{architecture} cannot be created") or UnsupportedModel(
                f"{architecture} cannot be created with {shown}: {reason}",
                "Correct `model_kwargs` or `image_size`." if shown else _EXAMPLE,
            ) from error
        raise exhausted(error, f"{name} cannot be loaded") or BadInput(
            f"The pretrained weights of {name} could not be downloaded: {reason}",
            "Connect to the network, or give a checkpoint with `weights` "
            "(`untrained` serves for latency alone).",
        ) from error
    return module.eval()


def preprocessing_of(module: nn.Module, image_size: tuple[int, int] | None = None) -> Preprocessing:
    """All that timm says of how images come to this network.

    Args:
        module: a network of timm's.
        image_size: height and width, where they are not timm's own.
    """
    config: dict[str, Any] = dict(getattr(module, "pretrained_cfg", None) or {})
    _, height, width = config.get("input_size") or (3, 224, 224)
    mean = tuple(config.get("mean") or IMAGENET_MEAN)
    std = tuple(config.get("std") or IMAGENET_STD)
    preprocessing = Preprocessing(
        image_size=image_size or (int(height), int(width)),
        crop_pct=float(config.get("crop_pct") or 0.9),
        interpolation=str(config.get("interpolation") or "bicubic"),
        mean=mean,
        std=std,
        crop_mode=str(config.get("crop_mode") or "center"),
    )
    return preprocessing.with_channels(channels_of(module))


def _check_pretrained(request: Request, architecture: str) -> None:
    """What timm would answer with random values, or without a word."""
    import timm

    config = timm.get_pretrained_cfg(architecture)
    if config is None or not config.has_weights:
        raise BadInput(
            f"timm has no trained weights for {request.name}.",
            "Give a checkpoint with `weights` (`untrained` serves for latency alone).",
        )
    if request.num_classes not in (None, config.num_classes):
        raise BadInput(
            f"The weights that timm has for {request.name} have {config.num_classes} classes: "
            f"with {request.num_classes}, the classifier would be a random one.",
            "Give the checkpoint that was trained with so many classes: `weights` "
            "(`untrained` serves for latency alone).",
        )


def _may_project(architecture: str) -> bool:
    """Whether timm's classifier of this name may be CLIP's projection."""
    import timm

    tag = getattr(timm.get_pretrained_cfg(architecture), "tag", None) or ""
    return "clip" in architecture or ("clip" in tag and "_ft_" not in tag)


def _output(module: Any, may_project: bool) -> Output:
    if not getattr(module, "num_classes", 0):
        return "embedding"
    # CLIP's projection into the space that images and texts share has no bias: timm's is zero.
    bias = getattr(getattr(module, "head", None), "bias", None)
    return "embedding" if may_project and bias is not None and not bool(bias.any()) else "logits"


def _unsaid(module: Any, path: Path) -> str:
    """What names and shapes cannot say, as it was assumed."""
    said = []
    blocks = getattr(module, "blocks", None)
    heads = getattr(getattr(blocks[0], "attn", None), "num_heads", None) if blocks else None
    if heads is not None:
        said.append(f"num_heads={heads}")
    pool = getattr(module, "global_pool", None)
    if pool:
        said.append(f"global_pool={pool}")
    size = built_size(module)
    if size is not None:
        said.append(f"images of {size[0]}×{size[1]} pixels")
    listed = ", ".join(said) or "the structure of this name"
    return (
        f"{path.name} does not say all of its structure, and this was assumed: {listed}. "
        "`model_kwargs` and `image_size` change it."
    )


def _structure(asked: Mapping[str, Any], module: nn.Module) -> str:
    facts = dict(asked)
    size = built_size(module)
    if size is not None and size[0] != size[1]:
        facts["img_size"] = list(size)
    return json.dumps(facts, sort_keys=True, default=str) if facts else ""


def _labels(overlay: Mapping[str, Any] | None, module: Any) -> tuple[str, ...] | None:
    names = (overlay or {}).get("label_names")
    if not names or len(names) != getattr(module, "num_classes", 0):
        return None
    return tuple(str(name) for name in names)
