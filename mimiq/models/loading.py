"""From a name (and perhaps a file of weights) to a :class:`LoadedModel`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.models import checkpoint
from mimiq.models.families.known import family_of
from mimiq.models.loaded import LoadedModel, finished
from mimiq.models.names import EMBEDDED, TORCHVISION, architecture_of, unknown
from mimiq.models.sources import folders, timm, torchvision, windows
from mimiq.models.sources.original import Original, Request
from mimiq.models.tokens import Features
from mimiq.runtime.preprocessing import Preprocessing


def load_model(
    name: str | Path,
    *,
    weights: str | Path | None = None,
    untrained: bool = False,
    num_classes: int | None = None,
    image_size: int | tuple[int, int] | None = None,
    crop_pct: float | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    labels: Sequence[str] | None = None,
    crop_mode: str | None = None,
    interpolation: str | None = None,
    ema: bool | None = None,
    model_kwargs: Mapping[str, Any] | None = None,
    features: Features = "pooled",
) -> LoadedModel:
    """Load a trained ViT.

    Args:
        name: a short name (:data:`mimiq.models.SHORT_NAMES`), ``digits``, a name of timm's,
            torchvision's ``vit_b_16`` and the like, a folder that transformers or timm saved, or a
            repository on Hugging Face's hub (``google/vit-base-patch16-224``).
        weights: a file: safetensors, its shards by their index, PyTorch's own format, or JAX's
            ``.npz``; its layout may be timm's, transformers', torchvision's or CLIP's. Without it,
            the source's own weights, downloaded where they are not at hand.
        untrained: random weights instead (seed 0), for latency work only.
        num_classes: overrides what the classifier says; a contradiction is an error.
        image_size: side of the input, or its height and width; where the weights have another, the
            position embedding is resized.
        crop_pct, mean, std, crop_mode, interpolation: override the source's preprocessing.
        labels: class names in order.
        ema: where a file holds both, take the averaged weights (True) or the others (False).
        model_kwargs: arguments of timm's constructor, for what weights cannot say: ``num_heads``,
            ``global_pool``, …
        features: of a network without a classifier: its ``pooled`` embedding, or the ``tokens`` of
            its patches behind the last norm, all of an image in one row (B, N·C).

    Raises:
        BadInput: unknown name, unreadable or foreign checkpoint, contradiction, or neither network
            nor file.
        UnsupportedModel: the network is of no family described here, or gives no vector.
    """
    name = str(name)
    if untrained and weights is not None:
        raise BadInput("`untrained` and `weights` exclude each other.", "Give one of them.")
    request = Request(
        name,
        weights=None if weights is None else Path(weights),
        untrained=untrained,
        num_classes=num_classes,
        image_size=(image_size, image_size) if isinstance(image_size, int) else image_size,
        ema=ema,
        model_kwargs=dict(model_kwargs or {}),
    )
    given: dict[str, Any] = {
        "crop_pct": crop_pct,
        "mean": mean,
        "std": std,
        "crop_mode": crop_mode,
        "interpolation": interpolation,
    }
    changed = {key: value for key, value in given.items() if value is not None}
    if name == EMBEDDED:
        original = _embedded(request, bool(changed))
    else:
        original = _original(request)
        original = replace(original, preprocessing=_changed(original.preprocessing, changed))
    names = None if labels is None else tuple(labels)
    return finished(original, name, names, untrained=untrained, features=features)


def _changed(preprocessing: Preprocessing, changed: Mapping[str, Any]) -> Preprocessing:
    for key in ("mean", "std"):
        values = changed.get(key)
        if values is not None and len(values) != preprocessing.channels:
            raise BadInput(
                f"`{key}` has {len(values)} values, and the network takes "
                f"{preprocessing.channels} channels.",
                "Give one value for each channel.",
            )
    return replace(preprocessing, **changed)


def _embedded(request: Request, changed: bool) -> Original:
    from mimiq.models.digits import create_digits, digits_labels, digits_preprocessing
    from mimiq.models.sources import explain, layouts

    odd_size = request.image_size not in (None, (32, 32))
    odd = request.untrained or request.num_classes not in (None, 10) or odd_size
    if odd or changed or request.model_kwargs:
        raise BadInput(
            "The embedded model is trained, has 10 classes and takes 32×32 images as they are.",
            "Leave out `untrained`, `num_classes`, `image_size`, `model_kwargs` and the options "
            "of preprocessing.",
        )
    module = create_digits()
    notes: tuple[str, ...] = ()
    if request.weights is not None:
        found = layouts.read_network(request.weights, module, request.ema, request.name)
        error = explain.misfit(found.state, module.state_dict(), request.weights, request.name)
        if error is not None:
            raise error
        checkpoint.load_into(module, found.state, request.weights, request.name)
        notes = found.notes
    return Original(module, EMBEDDED, digits_preprocessing(), digits_labels(), notes=notes)


def _original(request: Request) -> Original:
    """The network from the source that its name tells."""
    name = request.name.removeprefix("local-dir:")
    path = Path(name)
    hub = name.removeprefix("hf-hub:").removeprefix("hf_hub:")
    architecture = architecture_of(name)
    # A name means the network, whatever folder of the same name is here: ./deit_s means that.
    if architecture in TORCHVISION:
        return _from_torchvision(request, architecture)
    if timm.is_known(architecture):
        if not request.untrained and _is_doubtful(architecture):
            # Refused before anything is downloaded or read.
            module = timm.build(request.name, architecture, {}, meta=True)
            family = family_of(module, architecture)
            if request.weights is None:
                family.rewrite(module)
        return timm.load(request, architecture, weights=request.weights)
    if path.is_dir():
        return folders.load(request, path)
    if path.is_file():
        if (path.parent / folders.CONFIG).is_file():
            return folders.load(request, path.parent, path)
        raise BadInput(
            f"{name} is a file, and weights alone do not say which network they are of.",
            f"Name its architecture: deit_s `weights={name}`",
        )
    if re.fullmatch(r"[\w.-]+/[\w.@-]+", hub) and not name.startswith((".", "/")):
        return folders.load(request, folders.download(hub))
    if "/" in name or "\\" in name:
        raise BadInput(f"Folder {name} does not exist.", "Check the path.")
    raise unknown(name)


def _from_torchvision(request: Request, name: str) -> Original:
    if request.weights is None and not request.untrained:
        request = replace(request, weights=torchvision.download(name))
    swin = name.startswith("swin")
    if swin:
        kwargs = {"always_partition": True, **request.model_kwargs}
        request = replace(request, model_kwargs=kwargs)
    original = timm.load(request, TORCHVISION[name], weights=request.weights)
    if swin:
        windows.keep_windows(original.module)
        windows.check_padding(original.module, request.name)
    preprocessing = torchvision.preprocessing(original.preprocessing, name)
    return replace(original, preprocessing=preprocessing)


def _is_doubtful(architecture: str) -> bool:
    """Whether timm builds it elsewhere than the ViTs that are known here."""
    import timm

    module = timm.models.model_entrypoint(architecture.split(".")[0]).__module__
    return module.rpartition(".")[2] not in ("vision_transformer", "deit")
