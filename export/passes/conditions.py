"""What passes require of a graph, and what they ensure: checked around every run of a pass."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from mimiq.export.graph import FAKE_QUANTIZE, array, nodes_of, producer


def require_none(nodes: Iterable[ir.Node], first: str) -> None:
    """Raise PreconditionError, naming one of ``nodes`` and what must run before.

    Args:
        first: the next step, as a clause: ``run LowerWeights first``.
    """
    node = next(iter(nodes), None)
    if node is not None:
        raise ir.passes.PreconditionError(f"The graph holds {_named(node)}: {first}.")


def ensure_none(nodes: Iterable[ir.Node], promise: str) -> None:
    """Raise PostconditionError, naming one of ``nodes`` and what was promised."""
    node = next(iter(nodes), None)
    if node is not None:
        raise ir.passes.PostconditionError(f"The pass left {_named(node)}, but {promise}.")


def require_lowered(model: ir.Model) -> None:
    """Raise PreconditionError where a fake quantiser is left."""
    require_none(fake_quantizers(model), "run the passes of lowering first")


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
