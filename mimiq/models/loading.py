"""From a name (and perhaps a file of weights) to a :class:`LoadedModel`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput, UnsupportedModel
from mimiq.models import checkpoint
from mimiq.models.families.beit import BeitFamily
from mimiq.models.families.eva import EvaFamily
from mimiq.models.families.swin import SwinFamily, SwinV2Family
from mimiq.models.families.vit import ViTFamily
from mimiq.models.family import Family
from mimiq.models.names import EMBEDDED, TORCHVISION, architecture_of, unknown
from mimiq.models.refused import unknown_family
from mimiq.models.sources import folders, timm, torchvision, windows
from mimiq.models.sources.original import Original, Request
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.session import Output

FAMILIES: tuple[Family, ...] = (
    ViTFamily(),
    BeitFamily(),
    EvaFamily(),
    SwinFamily(),
    SwinV2Family(),
)


@dataclass(frozen=True)
class LoadedModel:
    """A trained network, ready for every stage.

    Attributes:
        name: as the user wrote it.
        architecture: timm's name, ``digits``, or the library's and its type.
        module: the network with explicit attention, eval mode, frozen, fp32, on the CPU.
            Maps normalised images (B, channels, height, width) to logits (B, num_classes), or to
            embeddings (B, embedding_dim).
        family: where its parts are.
        preprocessing: from image file to network input.
        num_classes: width of the logits; 0 for an embedding.
        weights_hash: SHA-256 of the state dict, and of what else makes the function.
        labels: class names, where known.
        untrained: random weights, good for latency alone.
        output: whether the network answers with ``logits`` or with an ``embedding``.
        embedding_dim: width of the embedding; 0 for logits.
        notes: what was decided while loading, sentences for the user.
    """

    name: str
    architecture: str
    module: nn.Module
    family: Family
    preprocessing: Preprocessing
    num_classes: int
    weights_hash: str
    labels: tuple[str, ...] | None = None
    untrained: bool = False
    output: Output = "logits"
    embedding_dim: int = 0
    notes: tuple[str, ...] = ()

    @property
    def width(self) -> int:
        """Numbers that an image is answered with."""
        return self.embedding_dim if self.output == "embedding" else self.num_classes

    @property
    def cache_key(self) -> dict[str, Any]:
        """What stands for it in a cache's key."""
        return {
            "weights": self.weights_hash,
            "architecture": self.architecture,
            "preprocessing": self.preprocessing.to_json(),
            "output": self.output,
        }

    def describe(self) -> dict[str, Any]:
        """The manifest's entry."""
        entry = {
            "name": self.name,
            "architecture": self.architecture,
            "family": self.family.name,
            "num_classes": self.num_classes,
            "parameters": sum(p.numel() for p in self.module.parameters()),
            "weights_sha256": self.weights_hash,
            "untrained": self.untrained,
        }
        if self.output == "embedding":
            entry |= {"output": self.output, "embedding_dim": self.embedding_dim}
        return entry


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
    return finished(original, name, names, untrained=untrained)


def finished(
    original: Original,
    name: str,
    labels: tuple[str, ...] | None = None,
    *,
    untrained: bool = False,
) -> LoadedModel:
    """A network as it came from its source, rewritten and checked.

    Raises:
        BadInput: image size or labels do not fit.
        UnsupportedModel: the network is of no family described here, or gives no vector.
    """
    family, rewritten, width = described(original, name)
    embedding = original.output == "embedding"
    labels = labels or original.labels
    if labels is not None and embedding:
        raise BadInput(
            f"{name} has no classifier: it answers with an embedding of {width} numbers.",
            "Leave `labels` out.",
        )
    if labels is not None and len(labels) != width:
        raise BadInput(
            f"{len(labels)} labels were given, but {name} has {width} classes.",
            "Give one label a line, in class order.",
        )
    return LoadedModel(
        name=name,
        architecture=original.architecture,
        module=rewritten,
        family=family,
        preprocessing=original.preprocessing,
        num_classes=0 if embedding else width,
        weights_hash=_hash(original),
        labels=labels,
        untrained=untrained,
        output=original.output,
        embedding_dim=width if embedding else 0,
        notes=original.notes,
    )


def described(original: Original, name: str) -> tuple[Family, nn.Module, int]:
    """The network's family, the network as that writes it out, and how many numbers it answers.

    Args:
        original: on any device; on the meta device nothing is computed but shapes.
        name: as errors call it.

    Raises:
        BadInput: the image does not divide into patches.
        UnsupportedModel: no family describes the network, or a part of it, or it gives no vector.
    """
    family = _family_of(original.module, original.architecture)
    _check_patches(original.module, name, original.preprocessing)
    rewritten = family.rewrite(original.module)
    return family, rewritten, _check_answer(rewritten, original, name)


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
            family = _family_of(module, architecture)
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


def _family_of(module: nn.Module, architecture: str) -> Family:
    for family in FAMILIES:
        if family.matches(module):
            return family
    raise unknown_family(module, architecture)


def _is_doubtful(architecture: str) -> bool:
    """Whether timm builds it elsewhere than the ViTs that are known here."""
    import timm

    module = timm.models.model_entrypoint(architecture.split(".")[0]).__module__
    return module.rpartition(".")[2] not in ("vision_transformer", "deit")


def _check_patches(module: nn.Module, name: str, preprocessing: Preprocessing) -> None:
    patches = getattr(getattr(module, "patch_embed", None), "patch_size", None)
    sides = (preprocessing.height, preprocessing.width)
    for side, patch in zip(sides, patches or (), strict=False):
        if side % patch:
            raise BadInput(
                f"Images of {side} pixels do not divide into the patches of {name}, "
                f"{patch} pixels each.",
                f"Give an `image_size` that is a multiple of {patch}.",
            )


@torch.inference_mode()
def _check_answer(module: nn.Module, original: Original, name: str) -> int:
    """How many numbers the network answers with for an image.

    Raises:
        UnsupportedModel: they are no vector.
    """
    device = next(module.parameters()).device
    answer = module(torch.zeros(1, *original.preprocessing.input_shape, device=device))
    if not isinstance(answer, torch.Tensor) or answer.ndim != 2:
        shape = tuple(answer.shape) if isinstance(answer, torch.Tensor) else type(answer).__name__
        raise UnsupportedModel(
            f"{name} answers an image with {shape}, not with one vector.",
            "Choose a network that pools its tokens: `model_kwargs=global_pool=token`.",
        )
    return int(answer.shape[1])


def _hash(original: Original) -> str:
    weights = checkpoint.sha256_state(original.module.state_dict())
    if not original.structure:
        return weights
    return hashlib.sha256(f"{weights};{original.structure}".encode()).hexdigest()
