"""Finding the network among the tensors of a file, whatever wraps it and lies beside it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from mimiq.errors import BadInput
from mimiq.models.checkpoint import CONTAINER, Tensors

# What DDP, FSDP, activation checkpointing, torch.compile and DeepSpeed put around modules.
_WRAPPERS = frozenset(
    {
        "module",
        "_module",
        "_orig_mod",
        "_fsdp_wrapped_module",
        "_checkpoint_wrapped_module",
        "_forward_module",
        "_ddp_module",
    }
)
_AVERAGED = frozenset({"ema", "averaged", "average", "avg", "swa", "momentum", "target", "shadow"})
_TEACHER, _STUDENT = "teacher", "student"

# Parts of training beside a network, by the beginnings of their names. What else is unknown stays,
# and is an error: a layer that the network's answer passes through must not be dropped.
TRAINING = (
    "decoder_",
    "decoder.",
    "mask_token",
    "masked_embed",
    "predictor",
    "prediction_head",
    "criterion",
    "loss",
    "dino_head",
    "ibot_head",
    "lm_head",
    "mim_head",
    "projector",
    "projection_head",
    "contrastive_head",
    "queue",
    "prototypes",
    "teacher",
    "student",
    "momentum",
    "n_averaged",
    "metrics",
    "train_acc",
    "val_acc",
)


@dataclass(frozen=True)
class Found:
    """A network's tensors in a file.

    Attributes:
        state: by their names in the network.
        beside: the other tensors of the same mapping, by their names there.
        prefix: what stood before every name; empty where nothing did.
        notes: what was decided on the way, sentences for the user.
        projection: the head projects into a space of embeddings, and tells no classes apart.
        epsilon: of the norms, where the library that wrote the file has another than timm.
    """

    state: Tensors
    beside: Tensors = field(default_factory=dict)
    prefix: str = ""
    notes: tuple[str, ...] = ()
    projection: bool = False
    epsilon: float | None = None


def unwrapped(tensors: Mapping[str, torch.Tensor], path: Path) -> Tensors:
    """The tensors without the names of wrappers, at the beginning or in the middle.

    Raises:
        BadInput: the file is one shard of a network that FSDP has cut into pieces, or holds packed
            integers.
    """
    result: Tensors = {}
    for name, tensor in tensors.items():
        container, dot, key = name.rpartition(CONTAINER)
        parts = [part for part in key.split(".") if part not in _WRAPPERS]
        if parts and "flat_param" in parts[-1]:
            raise BadInput(
                f"{path} is cut into flat pieces by FSDP ({name}).",
                "Save the whole state dict, with FSDP's FULL_STATE_DICT.",
            )
        if "_packed_params" in name:
            raise BadInput(
                f"{path} holds a network that PyTorch has quantised ({name}).",
                "Give the checkpoint in floating point that it was made from.",
            )
        result[container + dot + ".".join(parts)] = tensor
    return result


def find_network(
    tensors: Mapping[str, torch.Tensor], anchor: str, ema: bool | None, path: Path
) -> Found | None:
    """The network that has a parameter named ``anchor``; None where there is none.

    Args:
        tensors: as of :func:`unwrapped`.
        anchor: a name that the network has exactly once.
        ema: take the averaged weights (True), those that were trained (False), or, where both are
            in the file, those that were trained, and say so (None).

    Raises:
        BadInput: the weights that ``ema`` asks for are not in the file, or several networks are.
    """
    pattern = re.compile(rf"^(?P<prefix>|.*[./]){re.escape(anchor)}$")
    matches = [match for name in tensors if (match := pattern.match(name))]
    prefixes = [match["prefix"] for match in matches]
    if not prefixes:
        return None
    prefix, notes = _chosen(prefixes, ema, path)
    container = prefix[: prefix.rfind(CONTAINER) + 1]
    within = tuple(other for other in prefixes if other != prefix and other.startswith(prefix))
    state = {
        name.removeprefix(prefix): tensor
        for name, tensor in tensors.items()
        if name.startswith(prefix)
        and not name.startswith(within)
        and CONTAINER not in name[len(prefix) :]
    }
    beside = {
        name.removeprefix(container): tensor
        for name, tensor in tensors.items()
        if name.startswith(container)
        and not name.startswith(prefix)
        and CONTAINER not in name[len(container) :]
        and not any(other != prefix and other and name.startswith(other) for other in prefixes)
    }
    return Found(state, beside, prefix, notes)


def _chosen(prefixes: list[str], ema: bool | None, path: Path) -> tuple[str, tuple[str, ...]]:
    averaged = [prefix for prefix in prefixes if _words(prefix) & (_AVERAGED | {_TEACHER})]
    trained = [prefix for prefix in prefixes if prefix not in averaged]
    if ema is not None:
        group = averaged if ema else trained
        if not group:
            kind, flag = ("averaged", "`ema=True`") if ema else ("trained", "`ema=False`")
            raise BadInput(
                f"{path} holds no {kind} weights that {flag} could take, only "
                f"{_shown(prefixes[0])}.",
                f"Leave {flag} out.",
            )
    else:
        group = trained or averaged
        # Self-distillation keeps the teacher, which is the average of the student.
        if trained and averaged and all(_STUDENT in _words(prefix) for prefix in trained):
            group = averaged
    if len(group) > 1:
        raise BadInput(
            f"{path} holds several networks: {', '.join(_shown(prefix) for prefix in group)}.",
            "Save the one you mean in a file of its own.",
        )
    others = [prefix for prefix in prefixes if prefix != group[0]]
    if not others or ema is not None:
        return group[0], ()
    flag = "`ema=False`" if group[0] in averaged else "`ema=True`"
    return group[0], (
        f"The file holds {_shown(group[0])} and {', '.join(_shown(other) for other in others)}; "
        f"{_shown(group[0])} was taken, {flag} takes the other.",
    )


def _words(prefix: str) -> set[str]:
    return set(re.split(r"[^a-z]+", prefix.lower()))


def _shown(prefix: str) -> str:
    return repr(prefix.strip("./")) if prefix.strip("./") else "a network at the top level"
