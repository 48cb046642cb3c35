"""The form for OpenVINO: its passes alone, then the whole as both runtimes compute it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from export_networks import Exported
from graphs import graph, moved_and_quantised, operators, qdq, random, require_valid, run
from onnx import helper

from mimiq.export import summarize, to_openvino
from mimiq.export.graph import DEQUANTIZE, QUANTIZE, load
from mimiq.export.passes.integers.early_pairs import QuantizeBeforeMoves
from mimiq.export.passes.integers.int4_cast import CastInt4
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

ExportIn = Callable[[str], Exported]
_PRECISIONS = (("runtime", ""), ("output", "s"))
QUANTIZED = ["w8a8", "w4a8", "w4a4"]


def test_a_pair_goes_before_what_moves_it() -> None:
    model = moved_and_quantised()
    x = random(4, 6) * 30
    (before,) = run(model, x=x)
    assert QuantizeBeforeMoves()(model).modified
    assert operators(model) == [QUANTIZE, DEQUANTIZE, "Transpose", "Reshape", "Relu"]
    shapes = {node.op_type: list(node.outputs[0].shape or ()) for node in model.graph}
    assert shapes == {QUANTIZE: [4, 6], DEQUANTIZE: [4, 6]} | {
        "Transpose": [6, 4], "Reshape": [2, 12], "Relu": [2, 12]
    }  # fmt: skip
    (after,) = run(model, x=x)
    np.testing.assert_array_equal(after, before)  # powers of two: folding rounds nothing
    assert not QuantizeBeforeMoves()(model).modified


@pytest.mark.parametrize(
    ("reader", "step"),
    [
        (["a", "t"], np.float32(0.25)),  # others read what was moved
        (["a", "a_i2"], np.float32(0.25)),  # others read the bytes
        (["a", "a"], np.full(4, 0.25, np.float32)),  # the steps go along an axis that is moved
    ],
)
def test_a_value_that_others_read_is_not_moved(reader: list[str], step: Any) -> None:
    nodes = [helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0], name="t"), *qdq("t", "a")]
    if "a_i2" in reader:
        second = [["a_i", "a_s", "zero"], ["a_i2"]]
        nodes.append(helper.make_node(DEQUANTIZE, *second, name="second"))
    nodes.append(helper.make_node("Add", reader, ["y"], name="end"))
    zero = np.zeros(np.shape(step), np.int8)
    model = graph(nodes, {"x": [4, 6]}, {"a_s": step, "zero": zero})
    assert not QuantizeBeforeMoves()(model).modified


def test_int4_weights_are_widened_where_they_meet_bytes_alone() -> None:
    nodes = [
        *qdq("x", "a"),
        helper.make_node(DEQUANTIZE, ["w", "w_s"], ["wf"], axis=1, name="dq"),
        helper.make_node("MatMul", ["a", "wf"], ["p"], name="product"),
        helper.make_node(DEQUANTIZE, ["v", "w_s"], ["vf"], axis=1, name="dq2"),
        helper.make_node("MatMul", ["p", "vf"], ["y"], name="weight-only"),
    ]
    weights = np.random.default_rng(0).integers(-7, 8, (2, 6, 6))
    constants = {
        **{name: _int4(values, name) for name, values in zip("wv", weights, strict=True)},
        "w_s": np.full(6, 0.5, np.float32),
        "a_s": np.float32(0.25),
        "zero": np.int8(0),
    }
    model = graph(nodes, {"x": ["b", 6]}, constants)
    (before,) = run(model, x=random(3, 6))
    assert CastInt4()(model).modified
    assert operators(model).count("Cast") == 1
    (after,) = run(model, x=random(3, 6))
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5)
    assert not CastInt4()(model).modified


def _int4(values: np.ndarray, name: str) -> onnx.TensorProto:
    return helper.make_tensor(name, onnx.TensorProto.INT4, values.shape, values.ravel())


@pytest.mark.parametrize("label", QUANTIZED)
def test_the_whole_form_gives_the_same_answers(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    source = exported(label)
    images = source.images.numpy()
    form = to_openvino(source.path, tmp_path / "openvino.onnx")
    assert form == tmp_path / "openvino.onnx"
    require_valid(form)
    found = summarize(form)
    assert found["attention"] == {"quantised": 2}
    assert found["metadata"] == summarize(source.path)["metadata"] | {"mimiq.runtimes": "OpenVINO"}
    (before,) = run(load(source.path), images=images)
    with OnnxRuntimeSession(form) as session:
        after = session.run(images)
    # Sums are added in another order; where one then rounds to the other integer, it shows.
    assert np.abs(after - before).mean() < 0.02 * before.std()
    # INT4 stays in the file; what is new in it are shapes and steps of the split projections.
    assert form.stat().st_size < source.path.stat().st_size + 20_000


@pytest.mark.parametrize("label", ["w8a8", "w4a8"])
def test_openvino_writes_bytes_behind_every_projection(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    form = to_openvino(exported(label).path, tmp_path / "openvino.onnx")
    network = openvino.Core().read_model(form)
    network.reshape([2, *network.inputs[0].partial_shape[1:]])
    compiled = openvino.Core().compile_model(network, "CPU")
    kinds = []
    for node in compiled.get_runtime_model().get_ordered_ops():
        facts = node.get_rt_info()
        if facts["layerType"].astype(str).startswith("FullyConnected"):
            kinds.append(tuple(facts[f"{key}Precision{s}"].astype(str) for key, s in _PRECISIONS))
    # In each of two blocks q, k, v and fc1 write bytes; proj, fc2 and the classifier numbers.
    assert {taken for taken, _ in kinds} == {"i8"}
    assert [given for _, given in kinds].count("i8") == 2 * 4
    assert len(kinds) == 2 * 6 + 1


@pytest.mark.parametrize("label", ["fp32", "w4a16-b32"])
def test_nothing_is_written_where_no_activation_is_quantised(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    assert to_openvino(exported(label).path, tmp_path / "openvino.onnx") is None
    assert list(tmp_path.iterdir()) == []
