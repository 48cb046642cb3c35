"""The one network inside a module in memory: behind DataParallel, torch.compile or a wrapper."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput
from mimiq.models.prefixes import TRAINING
from mimiq.models.sources.heads import check_normalisation

_AROUND = ("module", "_orig_mod")  # by DataParallel and its like, and by torch.compile


def network_in(
    module: nn.Module, is_network: Callable[[nn.Module], bool]
) -> tuple[nn.Module, tuple[str, ...]]:
    """The network, and a note of what was taken from around it; the module itself where it is none.

    Args:
        module: a network, or a wrapper with one inside.
        is_network: whether a module is one that can be read.

    Raises:
        BadInput: there are several networks inside, or layers beside the one.
    """
    name = type(module).__name__
    notes: tuple[str, ...] = ()
    while isinstance(inner := _inner(module), nn.Module):
        module = inner
        notes = (f"The network was taken out of the {name} around it.",)
    if is_network(module):
        return module, notes
    inside = _outermost(module, is_network)
    if not inside:
        return module, notes
    if len(inside) > 1:
        raise BadInput(
            f"This {name} has {len(inside)} networks inside: {', '.join(inside)}.",
            "Give the one to compile.",
        )
    ((where, network),) = inside.items()
    _check_beside(module, where, network)
    return network, (
        f"The network is {where!r} in this {name}; what else the {name} does is left out.",
    )


def without_compilation(module: nn.Module) -> nn.Module:
    """A copy in which no part is wrapped by ``torch.compile``."""
    copied = copy.deepcopy(module)
    for parent in list(copied.modules()):
        for key, child in list(parent.named_children()):
            if isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
                setattr(parent, key, inner)
    return copied


@torch.inference_mode()
def check_same_answer(wrapper: nn.Module, network: nn.Module, shape: tuple[int, ...]) -> None:
    """
    Args:
        wrapper: as it was given, which is left as it is.
        network: what was taken out of it, in eval mode on the CPU.
        shape: (C, H, W) of an image.

    Raises:
        BadInput: the wrapper answers otherwise than the network alone. One that cannot be called
            with an image is not checked.
    """
    images = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0))
    try:
        alone: Any = copy.deepcopy(wrapper).float().cpu().eval()
        whole = alone(images)
    except Exception:  # whatever a user's own forward may raise
        return
    wanted = getattr(whole, "logits", whole)
    found = network(images)
    if not isinstance(wanted, torch.Tensor):
        return
    if wanted.shape != found.shape or not torch.allclose(wanted, found, rtol=1e-3, atol=1e-3):
        raise BadInput(
            f"This {type(wrapper).__name__} answers otherwise than the network inside it: it does "
            "more, which would be left out.",
            "Give the network itself, to compile that alone.",
        )


def _inner(module: nn.Module) -> object:
    return next((getattr(module, name) for name in _AROUND if hasattr(module, name)), None)


def _outermost(
    module: nn.Module, is_network: Callable[[nn.Module], bool], prefix: str = ""
) -> dict[str, nn.Module]:
    found: dict[str, nn.Module] = {}
    for key, child in module.named_children():
        while isinstance(inner := getattr(child, "_orig_mod", None), nn.Module):
            child = inner
        if is_network(child):
            found[prefix + key] = child
        else:
            found |= _outermost(child, is_network, f"{prefix}{key}.")
    return found


def _check_beside(wrapper: nn.Module, where: str, network: nn.Module) -> None:
    own = {id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    layers = [
        name
        for name, parameter in wrapper.named_parameters()
        if id(parameter) not in own and not name.startswith(TRAINING)
    ]
    kind = type(wrapper).__name__
    if layers:
        raise BadInput(
            f"This {kind} has layers beside its network {where!r} ({', '.join(layers[:3])}).",
            "Give a network with its classifier as one of its own parts, or the network alone.",
        )
    buffers = {name: value for name, value in wrapper.named_buffers() if id(value) not in own}
    check_normalisation(buffers, f"This {kind}")
