"""Rules on attention, and on what is moved between quantisers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from graphs import graph
from onnx import helper
from rules_found import Export, found, half

from mimiq.export import check, require
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    emit,
    nodes_of,
    producer,
    replace,
)
from mimiq.export.passes.clean import Clean


@pytest.mark.parametrize("missing", ["q", "k", "v", "probs"])
def test_attention_needs_all_four_quantisers(
    exported: Export, missing: str, tmp_path: Path
) -> None:
    model = half(exported, "w8a8", tmp_path)
    for node in nodes_of(model, DEQUANTIZE):
        quantize = producer(node.inputs[0], QUANTIZE)
        if quantize is not None and f"attn.{missing}_quantizer" in str(node.name):
            assert quantize.inputs[0] is not None
            replace(node, quantize.inputs[0])
    Clean()(model)
    findings = [f for f in check(model, "rtx") if f.rule == "attention-incomplete"]
    assert len(findings) == 2
    assert findings[0].severity == "falls back"
    assert f"except for {missing}." in findings[0].problem
    assert findings[0].node == "blocks.0.attn/Softmax"


def test_a_clip_on_the_softmax_output_is_slow(exported: Export, tmp_path: Path) -> None:
    model = half(exported, "w8a8", tmp_path)
    for node in nodes_of(model, QUANTIZE):
        if "0.attn.probs" in str(node.name):
            value = node.inputs[0]
            assert value is not None
            bound = add_initializer(model.graph, "bound", np.asarray(0.5, np.float32))
            clipped = emit(
                node, "Clip", [value, None, bound], dtype=ir.DataType.FLOAT, shape=value.shape
            )
            node.replace_input_with(0, clipped)
    assert found(model) == {("attention-clipped", "slow"): 1}
    assert [finding.severity for finding in require(model, "rtx")] == ["slow"]


def test_attention_operator_stays_half() -> None:
    model = graph(
        [
            helper.make_node(QUANTIZE, ["q", "s", "z"], ["qq"]),
            helper.make_node(DEQUANTIZE, ["qq", "s", "z"], ["qd"]),
            helper.make_node("Attention", ["qd", "k", "v"], ["y"], name="fused"),
        ],
        {name: [1, 2, 16, 32] for name in ("q", "k", "v")},
        {"s": np.float32(0.1), "z": np.int8(0)},
        opset=23,
    )
    assert found(model) == {("attention-operator", "falls back"): 1}


def test_movement_behind_dequantise_breaks_onnx_runtime() -> None:
    """The rule, and that ONNX Runtime really fails there."""
    import onnxruntime

    def model(mover: str) -> ir.Model:
        return graph(
            [
                helper.make_node(QUANTIZE, ["x", "s", "z"], ["q"]),
                helper.make_node(DEQUANTIZE, ["q", "s", "z"], ["d"], name="dequantize"),
                helper.make_node(mover, ["d"], ["t"]),
                helper.make_node(QUANTIZE, ["w", "s", "z"], ["q2"]),
                helper.make_node(DEQUANTIZE, ["q2", "s", "z"], ["d2"]),
                helper.make_node("MatMul", ["d2", "t"], ["y"]),
            ],
            {"x": [4, 4], "w": [4, 4]},
            {"s": np.float32(0.1), "z": np.int8(0)},
        )

    def load_session(graph: ir.Model) -> None:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        graph.opset_imports.pop("mimiq", None)
        onnxruntime.InferenceSession(
            ir.to_proto(graph).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    assert found(model("Transpose"), "ort") == {("qdq-before-movement", "refused"): 1}
    assert not found(model("Relu"), "ort")
    load_session(model("Relu"))
    if onnxruntime.__version__.startswith("1.31."):
        with pytest.raises(Exception, match="output_dtype INT8 does not match"):
            load_session(model("Transpose"))
