"""Weight-only Linears in the CPU form: integers whose activations are scaled row by row."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_networks import Exported
from graphs import graph, operators, qdq, random, require_valid, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from mimiq.export import summarize, to_cpu
from mimiq.export.graph import DEQUANTIZE, load
from mimiq.export.passes.integers.dynamic_products import DynamicProducts
from mimiq.export.passes.integers.integer_products import PRODUCT
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

ExportIn = Callable[[str], Exported]
LABELS = {"w4a16-b32": "int4 block 32 × uint8", "w4a16": "int4 per channel × uint8"}
INPUTS, OUTPUTS, BLOCK = 64, 6, 16


def _linear(
    seed: int = 0, block: int = BLOCK, bits: type = ml_dtypes.int4
) -> tuple[ir.Model, np.ndarray]:
    """y = x · DQ(W) + b, and the weight in floating point."""
    generator = np.random.default_rng(seed)
    integers = generator.integers(-7, 8, (INPUTS, OUTPUTS), dtype=np.int8)
    scale = generator.uniform(0.01, 0.1, (INPUTS // block, OUTPUTS)).astype(np.float32)
    attributes = {"axis": 0, "block_size": block} if block < INPUTS else {"axis": 1}
    nodes = [
        helper.make_node(DEQUANTIZE, ["w", "w_s"], ["wf"], name="dq", **attributes),
        helper.make_node("MatMul", ["x", "wf"], ["p"], name="product"),
        helper.make_node("Add", ["p", "b"], ["y"], name="add"),
    ]
    constants = {
        "w": numpy_helper.from_array(integers.astype(bits), "w"),
        "w_s": scale if block < INPUTS else scale[0],
        "b": random(OUTPUTS, seed=3),
    }
    weight = integers.astype(np.float32) * np.repeat(scale, block, axis=0)
    return graph(nodes, {"x": ["b", INPUTS]}, constants), weight


@given(
    seed=st.integers(0, 2**16), size=st.floats(1e-6, 1e6), block=st.sampled_from([BLOCK, INPUTS])
)
@settings(max_examples=40, deadline=None)
def test_it_differs_by_no_more_than_the_two_roundings(seed: int, size: float, block: int) -> None:
    """Half a step of each input, and in blocks half a step of each weight."""
    model, weight = _linear(seed, block)
    x = random(5, INPUTS, seed=seed) * np.float32(size)
    (before,) = run(model, x=x)
    assert DynamicProducts()(model).modified
    assert PRODUCT in operators(model)
    (after,) = run(model, x=x)
    row = np.abs(x).max(axis=1, keepdims=True)
    inputs = row / 254 * np.abs(weight).sum(axis=0)
    weights = np.abs(weight).max(axis=0) / 254 * (np.abs(x) + row / 254).sum(axis=1, keepdims=True)
    bound = inputs + (weights if block < INPUTS else 0)
    assert (np.abs(after - before) <= 1.001 * bound + 1e-5 * (1 + size)).all()


def test_weights_of_one_scale_a_channel_keep_their_integers() -> None:
    model, _ = _linear(block=INPUTS)
    x = (np.random.default_rng(1).integers(-127, 128, (5, INPUTS))).astype(np.float32)
    x[:, 0] = 127  # so that each input is a whole number of steps
    (before,) = run(model, x=x)
    DynamicProducts()(model)
    (after,) = run(model, x=x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-3)


def test_an_answer_does_not_depend_on_the_batch() -> None:
    model, _ = _linear()
    DynamicProducts()(model)
    x = random(6, INPUTS)
    x[0] *= 1000
    x[1] = 0
    (together,) = run(model, x=x)
    apart = np.concatenate([run(model, x=x[i : i + 1])[0] for i in range(6)])
    np.testing.assert_array_equal(together, apart)
    np.testing.assert_array_equal(together[1], random(OUTPUTS, seed=3))  # the bias alone


def test_an_input_of_several_linears_is_quantised_once() -> None:
    model, _ = _linear()
    proto = ir.to_proto(model)
    proto.graph.node.extend(
        [
            helper.make_node("MatMul", ["x", "wf"], ["q"], name="other"),
            helper.make_node("Add", ["q", "y"], ["z"], name="end"),
        ]
    )
    proto.graph.output[0].name = "z"
    model = ir.from_proto(proto)
    x = random(5, INPUTS)
    (before,) = run(model, x=x)
    DynamicProducts()(model)
    assert operators(model).count("QuantizeLinear") == 1
    assert operators(model).count(PRODUCT) == 2
    (after,) = run(model, x=x)
    assert np.abs(after - before).max() < 0.02 * np.abs(before).max()


def test_weights_of_more_bits_are_left_alone() -> None:
    """What INT8 rounds is no more than this would round."""
    model, _ = _linear(bits=np.int8)
    assert not DynamicProducts()(model).modified


def test_graphs_with_quantised_activations_are_left_alone() -> None:
    nodes = [
        *qdq("x", "a"),
        helper.make_node("Relu", ["a"], ["r"], name="relu"),
        helper.make_node(DEQUANTIZE, ["w", "w_s"], ["wf"], axis=1, name="dq"),
        helper.make_node("MatMul", ["r", "wf"], ["y"], name="product"),
    ]
    weights = np.random.default_rng(0).integers(-7, 8, (INPUTS, OUTPUTS)).astype(ml_dtypes.int4)
    constants = {"a_s": np.float32(0.1), "zero": np.int8(0)}
    constants |= {"w": numpy_helper.from_array(weights, "w"), "w_s": np.ones(OUTPUTS, np.float32)}
    model = graph(nodes, {"x": ["b", INPUTS]}, constants)
    assert not DynamicProducts()(model).modified


@pytest.mark.parametrize("label", LABELS)
def test_the_whole_form_gives_nearly_the_same_answers(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    source = exported(label)
    images = source.images.numpy()
    with OnnxRuntimeSession(source.path) as session:
        before = session.run(images)
    form = to_cpu(source.path, tmp_path / "cpu.onnx")
    assert form is not None
    answers = {}
    for exact in (False, True):
        with OnnxRuntimeSession(form, exact=exact) as session:
            answers[exact] = session.run(images)
        assert ((answers[exact] - before) ** 2).mean() < 0.002 * before.var()
        assert (answers[exact].argmax(1) == before.argmax(1)).mean() >= 0.95


@pytest.mark.parametrize("label", LABELS)
def test_weights_are_int4_in_the_file_and_int8_when_it_is_opened(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    source = exported(label).path
    form = to_cpu(source, tmp_path / "cpu.onnx")
    assert form is not None
    require_valid(form)
    names = [node.name for node in load(form).graph]
    assert len(set(names)) == len(names)
    found, plain = summarize(form), summarize(source)
    assert found["weight_bytes"] == plain["weight_bytes"]
    # Two blocks of qkv, proj, fc1 and fc2, and where scales have no blocks q, k and v apart. The
    # classifier has eight bits, and stays in floating point.
    linears = 2 * (4 if "block" in LABELS[label] else 6)
    assert found["layers"][f"{PRODUCT} {LABELS[label]}"] == linears
    for exact in (False, True):
        kept = tmp_path / f"{exact}.onnx"
        OnnxRuntimeSession(form, exact=exact, optimized_model=kept).close()
        kinds = [node.op_type for node in onnx.load(kept).graph.node]
        assert kinds.count(PRODUCT) == linears
        assert not {"Round", "Cast"} & set(kinds)
        assert kinds.count("MatMulNBits") <= 1
