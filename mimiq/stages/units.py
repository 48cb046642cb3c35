"""The parts of a network that are raised to more bits one by one, and what that takes.

A unit is a Linear or convolution with its weights and its input, or the two products inside one
block's attention with q, k, v and the softmax output. It is raised to 8 bits where it has fewer, to
floating point otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from mimiq.config.precision import FLOAT, Block, LayerPrecision, PerChannel, PerTensor, Precision
from mimiq.models import LoadedModel, quantizable_layers


@dataclass(frozen=True)
class Unit:
    """What is raised as one.

    Attributes:
        name: module name of the layer, or of a block's attention.
        kind: ``layer`` or ``attention``.
        now, raised: as labels, ``w4a8`` for layers, ``a8`` for attention, ``float``.
        extra_bytes: what raising it adds to the stored weights and scales.
        products: multiplications it does for one image.
    """

    name: str
    kind: Literal["layer", "attention"]
    now: str
    raised: str
    extra_bytes: int
    products: int


def units_of(model: LoadedModel, precision: Precision) -> list[Unit]:
    """Everything that is quantised, in the order of the module tree, attention last.

    Args:
        precision: placed in this network.
    """
    layers = quantizable_layers(model.module)
    names = {part: name for name, part in model.module.named_modules()}
    attentions = [names[attention] for attention in model.family.attentions(model.module)]
    products = _products(model, layers, attentions)
    units = []
    for name, layer in layers.items():
        now = precision.of(name)
        if not now.is_float:
            then = raised_layer(now)
            extra = stored_bytes(layer.weight, then) - stored_bytes(layer.weight, now)
            units.append(Unit(name, "layer", now.label, then.label, extra, products[name]))
    for name in attentions:
        bits = precision.attention_of(name)
        if bits is not None:
            to = "float" if bits == 8 else "a8"
            units.append(Unit(name, "attention", f"a{bits}", to, 0, products[name]))
    return units


def candidates(units: Iterable[Unit]) -> list[Unit]:
    """Those to raise first: to 8 bits, which costs hardly any speed; to float where all have 8."""
    every = list(units)
    to_integers = [unit for unit in every if unit.raised != FLOAT.label]
    return to_integers or every


def raise_units(precision: Precision, units: Iterable[Unit]) -> Precision:
    """The precision with each of these units one step up, or two where it is there twice; weights
    and activations rise together.
    """
    raised = precision
    for unit in units:
        if unit.kind == "layer":
            raised = raised.with_override(unit.name, raised_layer(raised.of(unit.name)))
        else:
            bits = raised.attention_of(unit.name)
            raised = raised.with_attention(unit.name, None if bits in (8, None) else 8)
    return raised


def raised_layer(layer: LayerPrecision) -> LayerPrecision:
    """One step up: 8 bits per channel, or floating point for what has 8 bits already."""
    weights, activations = layer.weight_bits, layer.activation_bits
    if min(weights or 8, activations or 8) == 8:
        return FLOAT
    # No target takes blocks under INT8 activations, and 8 bits need none.
    return LayerPrecision(weights and 8, PerChannel(), activations and 8)


def stored_bytes(weight: torch.Tensor, layer: LayerPrecision) -> int:
    """Bytes of this weight and its scales in the graph: up to 4 bits take INT4, the rest INT8."""
    count = weight.numel()
    if layer.weight_bits is None:
        return 4 * count
    match layer.granularity:
        case PerTensor():
            scales = 1
        case PerChannel():
            scales = len(weight)
        case Block(size):
            scales = count // size
    # Only Linears have an INT4 form.
    is_int4 = layer.weight_bits <= 4 and weight.ndim == 2
    return 4 * scales + ((count + 1) // 2 if is_int4 else count)


def _products(
    model: LoadedModel, layers: Mapping[str, nn.Module], attentions: Sequence[str]
) -> dict[str, int]:
    """Multiplications of every layer and attention for one image, as one forward shows them."""
    module, shape = model.module, model.preprocessing.input_shape
    counts: dict[str, int] = {}

    def count(name: str) -> Callable[[nn.Module, Any, torch.Tensor], None]:
        def hook(layer: nn.Module, _inputs: Any, out: torch.Tensor) -> None:
            if isinstance(layer, nn.Linear | nn.Conv2d):
                # Every weight meets every output position once.
                positions = out.numel() // len(layer.weight)
                counts[name] = positions * layer.weight.numel()
            else:  # the heads' outputs (1, H, T, d): scores and weighted sum, H·T·T·d each
                counts[name] = 2 * out.numel() * out.shape[2]

        return hook

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_hook(count(name)).remove)
        for name in attentions:
            heads = module.get_submodule(f"{name}.heads")
            hooks.callback(heads.register_forward_hook(count(name)).remove)
        module(torch.zeros(1, *shape))
    return counts
