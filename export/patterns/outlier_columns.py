"""Where the outlier columns of a graph's Linears are computed, in floating point.

A Linear whose integer weights are zero at a few inputs adds what these are worth behind its bias,
one product a column::

    x ─┬─ QuantizeLinear … MatMul ─ Add ─ Add
       ├─ Slice ─ Mul ───────────── Add ───┘
       └─ Slice ─ Mul ───────────────┘
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from mimiq.export.graph import (
    Array,
    array,
    nodes_of,
    operand,
    producer,
    shape_of,
    slice_of_one,
)
from mimiq.export.patterns.bounds import largest

_PRODUCTS = ("MatMul", "Gemm", "MatMulIntegerToFloat")


@dataclass(frozen=True)
class OutlierColumns:
    """The outlier columns of one Linear.

    Attributes:
        linear: the product of the other columns.
        add: where the two meet.
        x: what the columns are taken from.
        columns: their indices, in the order of the graph.
        rows: float (len(columns), out), their weights.
        products: the nodes that multiply.
        nodes: all between ``x`` and the output of ``add``.
    """

    linear: ir.Node
    add: ir.Node
    x: ir.Value
    columns: tuple[int, ...]
    rows: Array
    products: tuple[ir.Node, ...]
    nodes: tuple[ir.Node, ...]

    @property
    def name(self) -> str:
        return self.linear.name or ""

    @property
    def base(self) -> ir.Value:
        """What the other columns and the bias give, an input of :attr:`add`."""
        return operand(self.add, 0)

    @property
    def largest_sum(self) -> float | None:
        """The most that the columns can add, whatever the image is; None where nothing bounds it.

        Without regard to signs, so that no sum of a part of them is larger.
        """
        bound = largest(self.x)
        if bound is None:
            return None
        inputs = bound[list(self.columns)] if bound.ndim else np.full(len(self.columns), bound)
        return float((inputs @ np.abs(self.rows.astype(np.float64))).max())


@dataclass(frozen=True)
class _Term:
    x: ir.Value
    column: int
    row: Array
    product: ir.Node


def find_outliers(model: ir.Model) -> list[OutlierColumns]:
    """The Linears with outlier columns of the main graph, in order."""
    found = []
    for add in nodes_of(model, "Add"):
        linear, terms = _linear(add.inputs[0]), _terms(add.inputs[1])
        if linear is None or not terms or any(term.x is not terms[0].x for term in terms):
            continue
        columns, rows = tuple(term.column for term in terms), np.stack([t.row for t in terms])
        products = tuple(term.product for term in terms)
        x, nodes = terms[0].x, (*_nodes(add.inputs[1], terms[0].x), add)
        found.append(OutlierColumns(linear, add, x, columns, rows, products, nodes))
    return found


def _linear(value: ir.Value | None) -> ir.Node | None:
    """The product behind a Linear's output, its bias and the ratios of its scales added or not."""
    node = producer(value)
    while node is not None and node.op_type not in _PRODUCTS:
        scaled = node.op_type in ("Add", "Mul") and array(node.inputs[1]) is not None
        if not scaled and node.op_type not in ("Cast", "Identity"):
            return None
        node = producer(node.inputs[0])
    return node


def _terms(value: ir.Value | None) -> list[_Term]:
    """The products that a sum consists of; empty where it holds anything else."""
    node = producer(value)
    if node is None:
        return []
    if node.op_type in ("Cast", "Identity"):
        return _terms(node.inputs[0])
    if node.op_type == "Add":
        first, second = _terms(node.inputs[0]), _terms(node.inputs[1])
        return [*first, *second] if first and second else []
    term = _term(node)
    return [] if term is None else [term]


def _term(node: ir.Node) -> _Term | None:
    """One column times a constant row."""
    row = array(node.inputs[1]) if node.op_type == "Mul" else None
    piece = producer(_uncast(node.inputs[0]), "Slice")
    if row is None or row.ndim != 1 or piece is None:
        return None
    x, column = _uncast(piece.inputs[0]), _column(piece)
    return None if x is None or column is None else _Term(x, column, row, node)


def _column(piece: ir.Node) -> int | None:
    """c where a Slice takes ``x[…, c : c + 1]``."""
    shape, taken = shape_of(piece.inputs[0]), slice_of_one(piece)
    if shape is None or taken is None:
        return None
    start, axis = taken
    return start if axis in (-1, len(shape) - 1) else None


def _nodes(value: ir.Value | None, x: ir.Value) -> Iterator[ir.Node]:
    """What computes ``value`` from ``x``, operands first."""
    node = producer(value)
    if node is None or value is x:
        return
    for source in node.inputs:
        yield from _nodes(source, x)
    yield node


def _uncast(value: ir.Value | None) -> ir.Value | None:
    while (node := producer(value, "Cast")) is not None:
        value = node.inputs[0]
    return value
