"""Cleaning, names after torch modules, and metadata."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_networks import Exported
from graphs import graph, operators
from onnx import helper

from mimiq.export.passes.clean import Clean
from mimiq.export.passes.qdq.metadata import SetMetadata
from mimiq.export.passes.qdq.names import SCOPES, NameAfterModules
from mimiq.version import __version__

Export = Callable[[str], Exported]


def names(path: Path) -> set[str]:
    return {node.name for node in onnx.load(path).graph.node}


def test_layers_are_found_by_their_module_names(exported: Export) -> None:
    found = names(exported("w8a8").path)
    for block in (0, 1):
        for layer in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"):
            prefix = f"blocks.{block}.{layer}"
            assert f"{prefix}/MatMul" in found
            assert f"{prefix}/Add" in found
            assert f"{prefix}.input_quantizer/QuantizeLinear" in found
            assert f"{prefix}.weight_quantizer/DequantizeLinear" in found
        assert f"blocks.{block}.attn.scores/MatMul" in found
        assert f"blocks.{block}.attn.heads/MatMul" in found
        for point in ("q", "k", "v", "probs"):
            assert f"blocks.{block}.attn.{point}_quantizer/DequantizeLinear" in found
    assert {"patch_embed.proj/Conv", "head/MatMul"} <= found


def test_names_are_unique_and_none_is_the_exporters(exported: Export) -> None:
    model = onnx.load(exported("w4a4").path)
    nodes = [node.name for node in model.graph.node]
    assert len(set(nodes)) == len(nodes)
    assert all(nodes)
    values = [name for node in model.graph.node for name in node.output]
    assert len(set(values)) == len(values)
    assert not [name for name in (*nodes, *values) if "val_" in name or name.startswith("_")]


def test_parameters_are_named_after_their_layer(exported: Export) -> None:
    stored = {tensor.name for tensor in onnx.load(exported("w4a8").path).graph.initializer}
    prefix = "blocks.1.mlp.fc2"
    assert {
        f"{prefix}.weight",
        f"{prefix}.bias",
        f"{prefix}.weight_quantizer.scale",
        f"{prefix}.input_quantizer.scale",
        f"{prefix}.input_quantizer.zero_point",
    } <= stored


def test_a_coarse_step_has_a_name_of_its_own(exported: Export) -> None:
    graph = onnx.load(exported("w4a4").path).graph
    scales = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}
    point = "blocks.0.attn.qkv.input_quantizer"
    ratio = scales[f"{point}.coarse.scale"] / scales[f"{point}.scale"]
    assert ratio == pytest.approx(2)  # of Grid(-6, 5, 2, 2, 2)
    nodes = {node.name: node for node in graph.node}
    assert nodes[f"{point}/QuantizeLinear"].input[0] == nodes[f"{point}.coarse/Add"].output[0]


def test_full_precision_weights_keep_their_names(exported: Export) -> None:
    stored = {tensor.name for tensor in onnx.load(exported("fp32").path).graph.initializer}
    assert {"blocks.0.attn.qkv.weight", "head.weight", "pos_embed", "cls_token"} <= stored


def test_nodes_without_scope_keep_a_unique_name() -> None:
    model = graph(
        [
            helper.make_node("Relu", ["x"], ["a"], name="same"),
            helper.make_node("Relu", ["a"], ["b"], name="same"),
            helper.make_node("Relu", ["b"], ["y"]),
        ],
        {"x": [2]},
    )
    model.graph[2].metadata_props[SCOPES] = "['', 'layer', 'relu']"
    NameAfterModules()(model)
    assert [node.name for node in model.graph] == ["same", "same_1", "layer/Relu"]
    assert [node.outputs[0].name for node in model.graph] == ["same", "same_1", "y"]


def test_clean_removes_what_does_nothing() -> None:
    model = graph(
        [
            helper.make_node("Identity", ["x"], ["a"]),
            helper.make_node("Relu", ["a"], ["b"]),
            helper.make_node("Cast", ["b"], ["c"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Neg", ["c"], ["unused"]),
            helper.make_node("Add", ["c", "w"], ["y"]),
        ],
        {"x": [2]},
        {"w": np.ones(2, np.float32), "left_over": np.ones(3, np.float32)},
    )
    assert Clean()(model).modified
    assert operators(model) == ["Relu", "Add"]
    assert set(model.graph.initializers) == {"w"}
    assert set(model.opset_imports) == {""}


def test_clean_keeps_casts_that_change_the_type() -> None:
    model = graph(
        [
            helper.make_node("Cast", ["x"], ["a"], to=onnx.TensorProto.FLOAT16),
            helper.make_node("Cast", ["a"], ["y"], to=onnx.TensorProto.FLOAT),
        ],
        {"x": [2]},
    )
    Clean()(model)
    assert operators(model) == ["Cast", "Cast"]


def test_metadata_replaces_the_exporters() -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"], doc_string="note")], {"x": [2]})
    model.graph[0].metadata_props["pkg.torch.onnx.stack_trace"] = "/home/someone/model.py"
    model.graph.outputs[0].metadata_props["note"] = "/home/someone"
    model.metadata_props["old"] = "1"
    SetMetadata({"precision": "w8a8"})(model)
    proto = ir.to_proto(model)
    assert b"someone" not in proto.SerializeToString()
    assert {entry.key: entry.value for entry in proto.metadata_props} == {"precision": "w8a8"}
    assert (proto.producer_name, proto.producer_version) == ("mimiq", __version__)
