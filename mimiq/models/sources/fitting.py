"""A state dict and the network it belongs to: what its names and shapes say of the structure."""

from __future__ import annotations

import contextlib
import inspect
import io
import math
import sys
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput
from mimiq.models.checkpoint import Tensors
from mimiq.models.families.beit import BeitFamily
from mimiq.models.prefixes import Found
from mimiq.models.sources import explain, positions
from mimiq.models.sources.heads import with_head
from mimiq.models.sources.original import Request

_TABLE = "relative_position_bias_table"


def fitted(
    found: Found, base: Any, request: Request, path: Path
) -> tuple[Tensors, dict[str, Any], tuple[str, ...]]:
    """The state in timm's names, and the arguments that it says itself."""
    if any("pre_logits" in key for key in found.state):
        found = replace(
            found, notes=(*found.notes, "The file's pre_logits layer is left out, as timm does.")
        )
    state, notes = with_head(renamed(found.state, base), found, path)
    if state.pop("mask_token", None) is not None:
        notes += ("Left out of the file: its mask_token.",)
    error = explain.structure(state, base.state_dict(), path, request.name)
    if error is not None:
        raise error
    sized: dict[str, Any] = {}
    head = state.get("head.weight", state.get("head.fc.weight"))
    if head is not None and head.ndim == 2:
        sized["num_classes"] = int(head.shape[0])
    elif hasattr(base, "head") and not any(key.startswith("head") for key in state):
        sized["num_classes"] = 0
        notes += ("The file has no classifier: the network answers with an embedding.",)
    classes = sized.get("num_classes", request.num_classes)
    if request.num_classes is not None and classes != request.num_classes:
        trained = f"{classes} classes" if classes else "no classifier"
        raise BadInput(
            f"{path} was trained with {trained}, but `num_classes={request.num_classes}` was "
            "given.",
            "Leave `num_classes` out: it follows the checkpoint.",
        )
    if request.num_classes is not None:
        sized["num_classes"] = request.num_classes
    plain = type(getattr(base, "fc_norm", None)) is nn.Identity
    if "fc_norm.weight" in state and plain and "fc_norm" not in request.model_kwargs:
        sized["global_pool"] = "avg"
        notes += ("The file has fc_norm: patches are averaged, as in a fine-tuned MAE.",)
    pool = request.model_kwargs.get("global_pool")
    if pool == "avg" and "norm.weight" in state and "fc_norm.weight" not in state:
        sized["fc_norm"] = False
    patch = state.get("patch_embed.proj.weight")
    is_plain = hasattr(base, "patch_embed") and not hasattr(base.patch_embed, "backbone")
    if patch is None or patch.ndim != 4 or not is_plain:
        if request.image_size is not None:
            sized["img_size"] = as_argument(request.image_size)
        return state, sized, found.notes + notes
    pixels = (int(patch.shape[-2]), int(patch.shape[-1]))
    own = getattr(base.patch_embed, "patch_size", pixels)
    _check_channels(int(patch.shape[1]), request, path)
    if patch.shape[1] != channels_of(base):
        sized["in_chans"] = int(patch.shape[1])
    if pixels != tuple(own) and "patch_size" not in request.model_kwargs:
        sized["patch_size"] = pixels[0] if pixels[0] == pixels[1] else pixels
        notes += (f"Patches have {pixels[0]}×{pixels[1]} pixels, as in the file.",)
    size, said = _image_size(state, base, request, pixels, path)
    if size is not None:
        sized["img_size"] = as_argument(size)
    return state, sized, found.notes + notes + said


def _image_size(
    state: Tensors, base: Any, request: Request, patch: tuple[int, int], path: Path
) -> tuple[tuple[int, int] | None, tuple[str, ...]]:
    position = state.get("pos_embed")
    if position is None or position.ndim != 3 or getattr(base, "pos_embed", None) is None:
        return request.image_size, ()
    # CaiT's class token comes after the positions.
    alone = base.pos_embed.shape[1] == getattr(base.patch_embed, "num_patches", None)
    covered = not (alone or getattr(base, "no_embed_class", False))
    prefix = sum(
        state[key].shape[1] for key in ("cls_token", "dist_token", "reg_token") if key in state
    )
    patches = position[0, prefix if covered else 0 :]
    default = tuple(getattr(base.patch_embed, "img_size", None) or (224, 224))
    native = (default[0] // patch[0], default[1] // patch[1])
    wanted = request.image_size
    grid = None if wanted is None else (wanted[0] // patch[0], wanted[1] // patch[1])
    if grid is None or grid[0] * grid[1] != len(patches):
        _check_covered(position[0], prefix, covered, path)
    trained = positions.grid_of(patches, native, grid, patch, str(path))
    if grid is None or wanted is None:
        return (trained[0] * patch[0], trained[1] * patch[1]), ()
    if trained == grid:
        return wanted, ()
    # timm antialiases; DINOv2's own code does not, but in its form with registers.
    name = str((getattr(base, "pretrained_cfg", None) or {}).get("architecture", ""))
    as_timm = "dinov2" not in name or "reg" in name
    state["pos_embed"] = positions.resized(
        position, trained, grid, len(position[0]) - len(patches), antialias=as_timm
    )
    return wanted, (
        f"The position embedding was resized from {trained[0]}×{trained[1]} patches to "
        f"{grid[0]}×{grid[1]}, as {'timm' if as_timm else 'DINOv2'} does.",
    )


def resized_biases(state: Tensors, module: nn.Module) -> tuple[Tensors, tuple[str, ...]]:
    """The state with tables of relative position biases for the windows of ``module``.

    As timm's own loading resizes them, but that a table of the right length stays as it is: it was
    trained with those windows, square or not.
    """
    from timm.layers.pos_embed_rel import resize_rel_pos_bias_table

    expected, result = module.state_dict(), dict(state)
    windows: set[str] = set()
    for name, table in state.items():
        wanted = expected.get(name)
        if not name.endswith(_TABLE) or wanted is None or wanted.shape == table.shape:
            continue
        window: Any = module.get_submodule(name.removesuffix(f".{_TABLE}")).window_size
        if table.ndim == 2 and table.shape[1] == wanted.shape[1]:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of torch, about how timm indexes
                result[name] = resize_rel_pos_bias_table(
                    table.float(), new_window_size=window, new_bias_shape=tuple(wanted.shape)
                )
            windows.add(f"{window[0]}×{window[1]}")
    if not windows:
        return result, ()
    sizes = " and ".join(sorted(windows))
    return result, (f"Relative position biases were resized for {sizes} patches, as timm does.",)


def _check_channels(channels: int, request: Request, path: Path) -> None:
    """
    Raises:
        BadInput: others were asked for.
    """
    asked = request.model_kwargs.get("in_chans", channels)
    if asked != channels:
        raise BadInput(
            f"{path} was trained on images of {channels} channel{'s' * (channels != 1)}, and "
            f"`model_kwargs=in_chans={asked}` was given.",
            "Leave it out: the number of channels follows the checkpoint.",
        )


def _check_covered(position: torch.Tensor, prefix: int, covered: bool, path: Path) -> None:
    """
    Args:
        position: (entries, C).

    Raises:
        BadInput: the embedding has entries for the class token, or none, unlike the architecture.
    """
    count = len(position)
    ours, other = count - (prefix if covered else 0), count - (0 if covered else prefix)
    if prefix and math.isqrt(ours) ** 2 != ours and math.isqrt(other) ** 2 == other:
        as_ours, as_other = (positions.likeness(position[-number:]) for number in (ours, other))
        best = max(as_ours.values(), default=0.0)
        if best > max(positions.LEAST_SIMILARITY, *as_other.values()):
            return  # no square, and neighbours are alike in another grid
        raise BadInput(
            f"{path} has positions for {other} patches {'alone' if covered else 'and'}"
            f"{', not for' if covered else ''} {prefix} class and register tokens.",
            "Name an architecture that has the same, or give "
            f"`model_kwargs=no_embed_class={str(covered).lower()}`.",
        )


def renamed(state: Mapping[str, torch.Tensor], base: Any) -> Tensors:
    """timm's own translation of older and foreign names, all sizes as they are.

    Args:
        state: as it was found.
        base: a network of the architecture, perhaps of other sizes.
    """
    translate = getattr(sys.modules[type(base).__module__], "checkpoint_filter_fn", None)
    if translate is None:
        return dict(state)
    weight = state.get("patch_embed.proj.weight", state.get("visual.conv1.weight"))
    network = base
    if not hasattr(getattr(base, "patch_embed", None), "proj"):
        return dict(translate(dict(state), base))
    if weight is not None:
        # timm would resize to the network's sizes: this one has the file's, but for patches that
        # are written as the rows of a matrix.
        weight = weight if weight.ndim == 4 else base.patch_embed.proj.weight
        projection = SimpleNamespace(weight=weight)
        patches = SimpleNamespace(proj=projection)

        def with_table(name: str) -> SimpleNamespace:
            table = state[f"{name}.{_TABLE}"]
            return SimpleNamespace(relative_position_bias_table=table, window_size=(1, 1))

        # BEiT's translation compares with a position embedding that need not be there.
        position = state.get("pos_embed") if BeitFamily().matches(base) else None
        network = SimpleNamespace(
            pos_embed=position,
            patch_embed=patches,
            head=base.head,
            get_submodule=with_table,
            get_parameter=base.get_parameter,
        )
    arguments = {}
    if "adapt_layer_scale" in inspect.signature(translate).parameters:
        arguments["adapt_layer_scale"] = True
    with contextlib.redirect_stdout(io.StringIO()):  # timm prints what it tried
        translated: Tensors = translate(dict(state), network, **arguments)
    return translated


def channels_of(module: Any) -> int:
    stem: Any = getattr(module, "patch_embed", None)
    if hasattr(stem, "backbone"):  # its projection sees what the backbone puts out
        return int(stem.in_chans)
    weight = getattr(getattr(stem, "proj", None), "weight", None)
    return int(weight.shape[1]) if weight is not None and weight.ndim == 4 else 3


def built_size(module: Any) -> tuple[int, int] | None:
    size = getattr(getattr(module, "patch_embed", None), "img_size", None)
    return None if size is None else (int(size[0]), int(size[1]))


def as_argument(size: tuple[int, int]) -> int | tuple[int, int]:
    return size[0] if size[0] == size[1] else size
