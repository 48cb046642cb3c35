"""What a parsed graph asks for: the type of each operand of each matrix product.

Read from the library's own network, so that a host needs no ONNX library to know it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

_PASSIVE = ("SHUFFLE", "CAST", "IDENTITY")


@dataclass(frozen=True)
class WantedProduct:
    """One matrix product of the graph.

    Attributes:
        node: the ONNX node.
        left, right: type that Q/DQ gives the operand (``int8``, ``int4``, ``fp8``), or None.
        constant: the right operand is a weight.
        outlier_columns: how many inputs are multiplied in floating point beside it.
        tokens, head_size: in attention the sequence and the width of a head, where fixed: the
            sizes of q in q·kᵀ, whose output is square, and those of the output in softmax·v.
        mixed: in attention, heads are mixed between this product and the softmax.
    """

    node: str
    left: str | None
    right: str | None
    constant: bool
    tokens: int | None
    head_size: int | None
    outlier_columns: int = 0
    mixed: bool = False

    @property
    def is_low(self) -> bool:
        return self.right is not None

    @property
    def label(self) -> str:
        """``int8``, ``int4→int8``, ``int4→float`` …; as :attr:`MatrixProduct.label`."""
        compute = self.left or "float"
        return compute if self.right in (None, compute) else f"{self.right}→{compute}"

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def wanted_products(library: Any, network: Any) -> tuple[WantedProduct, ...]:
    """Every matrix product of a parsed network, in the order of the graph."""
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    producers = {
        layer.get_output(index).name: layer
        for layer in layers
        for index in range(layer.num_outputs)
    }
    trace = _Trace(library, producers)
    outliers, mixed = trace.outliers(layers), trace.mixed(layers)
    products = []
    for layer in layers:
        if layer.type != library.LayerType.MATRIX_MULTIPLY:
            continue
        left, right = layer.get_input(0), layer.get_input(1)
        left_type, _ = trace.origin(left)
        right_type, constant = trace.origin(right)
        output = tuple(layer.get_output(0).shape)[-2:]
        sizes = tuple(left.shape)[-2:] if len(set(output)) == 1 else output
        tokens, head_size = (int(size) if size > 0 else None for size in sizes)
        node = node_of(layer)
        columns = outliers.get(node, 0)
        products.append(
            WantedProduct(
                *(node, left_type, right_type, constant, tokens, head_size, columns),
                mixed=node in mixed,
            )
        )
    return tuple(products)


def node_of(layer: Any) -> str:
    """The ONNX node a network layer comes from."""
    match = re.search(r"\[ONNX Layer: (.*?)\]$", str(layer.metadata))
    return match[1] if match else str(layer.name)


class _Trace:
    def __init__(self, library: Any, producers: dict[str, Any]) -> None:
        kinds = library.LayerType
        self._passive = {getattr(kinds, name) for name in _PASSIVE}
        self._constant, self._dequantize = kinds.CONSTANT, kinds.DEQUANTIZE
        self._elementwise, self._slice = kinds.ELEMENTWISE, kinds.SLICE
        self._product, self._convolution = kinds.MATRIX_MULTIPLY, kinds.CONVOLUTION
        self._quantize = kinds.QUANTIZE
        self._producers = producers

    def origin(self, tensor: Any) -> tuple[str | None, bool]:
        """(type a DequantizeLinear reads, whether a constant is behind it)."""
        layer = self._through(tensor)
        if layer is None or layer.type != self._dequantize:
            return None, layer is not None and layer.type == self._constant
        stored = layer.get_input(0)
        source = self._through(stored)
        constant = source is not None and source.type == self._constant
        return str(stored.dtype).rpartition(".")[2].lower(), constant

    def mixed(self, layers: Sequence[Any]) -> set[str]:
        """Products that a convolution reads, or whose left operand comes from one."""
        found = set()
        for layer in layers:
            if layer.type == self._convolution:
                before = self._through(layer.get_input(0))
                if before is not None and before.type == self._product:
                    found.add(node_of(before))
            if layer.type == self._product:
                source = self._through(layer.get_input(0))
                while source is not None and source.type in (self._dequantize, self._quantize):
                    source = self._through(source.get_input(0))
                if source is not None and source.type == self._convolution:
                    found.add(node_of(layer))
        return found

    def outliers(self, layers: Sequence[Any]) -> dict[str, int]:
        """How many products of one column and a constant are added to which Linear."""
        found: dict[str, int] = {}
        for layer in layers:
            if layer.type != self._elementwise:
                continue
            linear, columns = self._linear(layer.get_input(0)), self._columns(layer.get_input(1))
            if linear is not None and columns:
                found[node_of(linear)] = columns
        return found

    def _linear(self, tensor: Any) -> Any:
        """The Linear behind a tensor, past its bias and the ratios of its scales."""
        layer = self._through(tensor)
        while layer is not None and layer.type == self._elementwise:
            if not self._is_constant(layer.get_input(1)):
                return None
            layer = self._through(layer.get_input(0))
        is_linear = layer is not None and layer.type == self._product
        return layer if is_linear and self.origin(layer.get_input(1))[1] else None

    def _columns(self, tensor: Any) -> int:
        """How many columns a sum of such products holds; 0 where it holds anything else."""
        layer = self._through(tensor)
        if layer is None or layer.type != self._elementwise:
            return 0
        first, second = layer.get_input(0), layer.get_input(1)
        if not self._is_constant(second):
            left, right = self._columns(first), self._columns(second)
            return left + right if left and right else 0
        column = self._through(first)
        is_slice = column is not None and column.type == self._slice
        return int(is_slice and column.get_output(0).shape[-1] == 1)

    def _is_constant(self, tensor: Any) -> bool:
        layer = self._through(tensor)
        return layer is not None and layer.type == self._constant

    def _through(self, tensor: Any) -> Any:
        """The layer behind a tensor, past what only moves or casts it."""
        layer = self._producers.get(tensor.name)
        while layer is not None and layer.type in self._passive:
            layer = self._producers.get(layer.get_input(0).name)
        return layer
