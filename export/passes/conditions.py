"""What passes require of a graph, and what they ensure: checked around every run of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from mimiq.errors import BadInput, MimiqError
from mimiq.export.graph import FAKE_QUANTIZE, array, nodes_of, producer


class TooEarly(BadInput, ir.passes.PreconditionError):
    """A pass was given a graph that another pass must rewrite first."""


class PromiseBroken(MimiqError, ir.passes.PostconditionError):
    """A pass left behind what it is there to rewrite."""


def require_none(nodes: Iterable[ir.Node], first: str) -> None:
    """Refuse a graph that holds any of ``nodes``.

    Args:
        first: the next step, as a sentence: ``Run LowerWeights first.``

    Raises:
        TooEarly: there is one, which is named.
    """
    node = next(iter(nodes), None)
    if node is not None:
        raise TooEarly(f"The graph holds {_named(node)}.", first)


def ensure_none(nodes: Iterable[ir.Node], promise: str) -> None:
    """Refuse what a pass made, where it left any of ``nodes``.

    Args:
        promise: what holds behind the pass, as a clause.

    Raises:
        PromiseBroken: there is one, which is named.
    """
    node = next(iter(nodes), None)
    if node is not None:
        raise PromiseBroken(
            f"The pass left {_named(node)}, but {promise}.",
            "This is a defect of mimiq. Please report it with the graph.",
        )


def require_lowered(model: ir.Model) -> None:
    """Refuse a graph in which a fake quantiser is left.

    Raises:
        TooEarly: there is one, which is named.
    """
    require_none(fake_quantizers(model), "Run the passes of lowering first.")


def fake_quantizers(model: ir.Model) -> list[ir.Node]:
    """Every fake quantiser, of weights and of activations."""
    return nodes_of(model, FAKE_QUANTIZE)


def fake_quantized_weights(model: ir.Model) -> list[ir.Node]:
    """The fake quantisers of constants."""
    return [node for node in fake_quantizers(model) if array(node.inputs[0]) is not None]


def weight_transposes(model: ir.Model) -> Iterator[ir.Node]:
    """The Transposes of a constant, or of a fake-quantised one."""
    for node in nodes_of(model, "Transpose"):
        quantizer = producer(node.inputs[0], FAKE_QUANTIZE)
        source = node.inputs[0] if quantizer is None else quantizer.inputs[0]
        if array(source) is not None:
            yield node


def _named(node: ir.Node) -> str:
    return f"{node.op_type} {node.name}" if node.name else f"a {node.op_type} without a name"
