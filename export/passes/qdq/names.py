"""Nodes, values and initialisers take the names of the torch modules they come from."""

from __future__ import annotations

import ast
from collections import Counter

import onnx_ir as ir

from mimiq.export.graph import DEQUANTIZE, QUANTIZE, consumers, nodes_of
from mimiq.export.patterns.attention import find_attentions
from mimiq.export.patterns.narrowing import narrowing
from mimiq.export.patterns.outlier_columns import find_outliers

SCOPES = "pkg.torch.onnx.name_scopes"  # torch's exporter leaves the module path of a node here

_ROLES = {
    QUANTIZE: ("", "scale", "zero_point"),
    DEQUANTIZE: ("integers", "scale", "zero_point"),
    "Clip": ("", "min", "max"),
    "MatMul": ("", "weight"),
}


class NameAfterModules(ir.passes.InPlacePass):
    """``blocks.0.attn.qkv/MatMul``, ``blocks.0.attn.qkv.input_quantizer/QuantizeLinear`` ….

    The two products of an attention are ``….scores/MatMul`` and ``….heads/MatMul``, after the
    points of :class:`mimiq.models.attention.ExplicitAttention` they feed; what rounds to the coarse
    step of a grid of two is ``….input_quantizer.coarse/…``. A second node of one type in one module
    gets ``_1``. The weights of an outlier column are ``….fc2.outlier_weight.115``. A value is
    called like the node it comes from; graph inputs, graph outputs and the network's parameters
    keep their names.
    """

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        paths = {node: _module_path(node) for node in model.graph}
        for attention in find_attentions(model):
            for point, node in (("scores", attention.scores), ("heads", attention.heads)):
                paths[node] = f"{paths[node]}.{point}" if paths[node] else None
        for quantize in nodes_of(model, QUANTIZE):
            found = narrowing(quantize)
            for node in found.coarse if found is not None else ():
                paths[node] = f"{paths[node]}.coarse" if paths[node] else None
        seen: Counter[str] = Counter()
        for node, path in paths.items():
            name = f"{path}/{node.op_type}" if path is not None else node.name or node.op_type
            node.name = name if not seen[name] else f"{name}_{seen[name]}"
            seen[name] += 1
            for index, output in enumerate(node.outputs):
                if not output.is_graph_output():
                    output.name = node.name if not index else f"{node.name}:{index}"
        for node, path in paths.items():
            if path is not None:
                _name_parameters(node, path)
        for outliers in find_outliers(model):
            path = paths[outliers.linear]
            for product, column in zip(outliers.products, outliers.columns, strict=True):
                _rename(product.inputs[1], f"{path}.outlier_weight.{column}")
        return ir.passes.PassResult(model, modified=True)


def _module_path(node: ir.Node) -> str | None:
    """The dotted path of the innermost module; ``model`` for the network itself."""
    scopes = node.metadata_props.get(SCOPES)
    if scopes is None:
        return None
    path = ast.literal_eval(scopes)
    # The exporter marks nodes that belong to no module, such as the batch size, by a private name.
    inner = path[-2] if len(path) > 1 else ""
    return inner if inner and not inner.startswith("_") else "model"


def _name_parameters(node: ir.Node, path: str) -> None:
    """Weights after their layer, scales after their quantiser, unless several modules share one."""
    for value, role in zip(node.inputs, _ROLES.get(node.op_type, ()), strict=False):
        if not role or value is None or not value.is_initializer():
            continue
        # The integers are the weight itself: blocks.0.mlp.fc1.weight.
        name = path.removesuffix("_quantizer") if role == "integers" else f"{path}.{role}"
        paths = {reader.name.rpartition("/")[0] for reader in consumers(value) if reader.name}
        if len(paths) == 1:
            _rename(value, name)


def _rename(value: ir.Value | None, name: str) -> None:
    """Where the name is free."""
    graph = None if value is None else value.graph
    if value is not None and graph is not None and name not in graph.initializers:
        ir.convenience.rename_values(value, name)
