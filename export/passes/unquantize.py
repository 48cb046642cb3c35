"""A quantised graph in floating point again."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    array,
    graph_of,
    nodes_of,
    operand,
    producer,
    replace,
)
from mimiq.export.passes.conditions import ensure_none, require_lowered
from mimiq.export.patterns.narrowing import narrowing
from mimiq.export.patterns.outlier_columns import OutlierColumns, find_outliers
from mimiq.export.patterns.stored import dequantized


class Unquantize(ir.passes.InPlacePass):
    """Weights become the numbers that their integers stand for; Q/DQ of activations goes.

    What is left computes what the quantised graph does, but for the rounding and clipping of
    activations: the network to hold its speed against. Outlier columns are columns again.

    Raises:
        UnsupportedModel: for integers that are computed otherwise than by QuantizeLinear.
    """

    def requires(self, model: ir.Model) -> None:
        require_lowered(model)

    def ensures(self, model: ir.Model) -> None:
        ensure_none(nodes_of(model, DEQUANTIZE), "nothing is quantised any more")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        found = nodes_of(model, DEQUANTIZE)
        for node in reversed(found):  # what a coarse step's own Q/DQ belong to comes behind them
            quantizer = producer(node.inputs[0], QUANTIZE)
            if quantizer is not None:
                narrow = narrowing(quantizer)
                replace(node, operand(narrow.clip if narrow else quantizer, 0))
                continue
            values = dequantized(node)
            if values is None:
                raise UnsupportedModel(
                    f"{node.name} reads neither a constant nor a QuantizeLinear.",
                    "Export the model with mimiq.",
                )
            name = f"{operand(node, 0).name}_float"
            replace(node, add_initializer(graph_of(node), name, values))
        for outliers in find_outliers(model):
            _fold(outliers)
        return ir.passes.PassResult(model, modified=bool(found))


def _fold(outliers: OutlierColumns) -> None:
    """The columns' weights take the place of the zeros among the Linear's own."""
    weight = operand(outliers.linear, 1)
    values = array(weight)
    if values is None or outliers.linear.op_type != "MatMul":
        return
    values = values.copy()
    np.add.at(values, list(outliers.columns), outliers.rows)
    whole = add_initializer(graph_of(outliers.linear), weight.name or "weight", values)
    outliers.linear.replace_input_with(1, whole)
    replace(outliers.add, outliers.base)
