"""From a precision's name to its value, with blocks that suit the network."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from mimiq.config.precision import (
    Precision,
    from_bits,
    largest_block,
    parse_bits,
    weight_only,
)
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Mapping

    from mimiq.models import LoadedModel

NAMED = {"int8": "w8a8", "int4": "w4a8"}
"""Names of precisions, and the bits that each stands for."""
_WEIGHT_ONLY = re.compile(r"int([2-8])-weight-only")


def widths_of(name: str) -> tuple[int, int | None, bool]:
    """Bits of weights and of activations (None: floating point), and whether weights have blocks.

    Raises:
        BadInput: the name is unknown, or a width is not supported.
    """
    if match := _WEIGHT_ONLY.fullmatch(name):
        return int(match[1]), None, True
    try:
        return *parse_bits(NAMED.get(name, name)), False
    except BadInput as error:
        raise BadInput(
            f"Precision {name!r} is unknown: {error.problem}",
            f"Choose {', '.join(NAMED)}, int4-weight-only, or wXaY, for example w4a4.",
        ) from error


def precision_for(
    model: LoadedModel,
    precision: str | Precision,
    *,
    block_size: int | None = None,
    uniform: bool = False,
) -> Precision:
    """The precision of this name for this network.

    Args:
        model: the network.
        precision: ``int8``, ``int4``, ``intX-weight-only`` or ``wXaY``; a value stays as it is.
        block_size: inputs that share a scale, for weights alone; None for the largest that fits
            every Linear.
        uniform: the classifier at the same bits too, in the place of 8 at least.

    Raises:
        BadInput: the name is unknown, a width is not supported, or no block size suits.
    """
    if isinstance(precision, Precision):
        if block_size is not None or uniform:
            raise BadInput(
                "`block_size` and `uniform` change a precision's name, and a value was given.",
                "Leave them out, or put them into the precision.",
            )
        return precision
    weights, activations, blocks = widths_of(precision)
    if not blocks and block_size is None:
        return from_bits(weights, activations, uniform=uniform)
    if activations is not None:
        raise BadInput(
            "Block-wise weight scales with quantised activations run on no target.",
            "Leave out `block_size`, or choose int4-weight-only or wXa16.",
        )
    inputs = linear_inputs(model)
    if block_size is not None:
        _check_block(block_size, inputs)
    return weight_only(weights, block_size or largest_block(inputs.values()), uniform=uniform)


def linear_inputs(model: LoadedModel) -> dict[str, int]:
    """How many inputs each Linear has, by its name."""
    from mimiq.models import quantizable_layers

    layers = quantizable_layers(model.module)
    return {name: layer.weight.shape[1] for name, layer in layers.items() if layer.weight.ndim == 2}


def _check_block(size: int, inputs: Mapping[str, int]) -> None:
    for name, count in inputs.items():
        if count % size:
            raise BadInput(
                f"Block size {size} does not divide the {count} inputs of {name}.",
                "Choose a `block_size` that divides them (32 and 64 suit most ViTs), or leave it "
                "out.",
            )
