"""The CPU form: each pass alone, then the whole against the graph it was made from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_networks import Exported
from graphs import graph, moved_and_quantised, operators, qdq, random, require_valid, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mimiq.errors import BadInput
from mimiq.export import summarize, to_cpu
from mimiq.export.graph import DEQUANTIZE, QUANTIZE, load, nodes_of
from mimiq.export.passes.clean import Clean
from mimiq.export.passes.integers.early_quantize import QuantizeEarly
from mimiq.export.passes.integers.integer_offset import FoldOffsets
from mimiq.export.passes.integers.integer_products import CONTRIB, PRODUCT, IntegerProducts
from mimiq.export.passes.integers.qkv_split import SplitJoinedProjections
from mimiq.export.passes.integers.unsigned_activations import UnsignedActivations
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

ExportIn = Callable[[str], Exported]
QUANTIZED = ["w8a8", "w4a8", "w4a4"]
SIZE = 4


def _product(weights: np.ndarray, scale: Any, x_scale: float) -> ir.Model:
    """y = DQ(Q(x)) · DQ(W) + b."""
    nodes = [
        *qdq("x", "a"),
        helper.make_node(DEQUANTIZE, ["w", "w_s"], ["wf"], axis=1, name="dq"),
        helper.make_node("MatMul", ["a", "wf"], ["p"], name="product"),
        helper.make_node("Add", ["p", "b"], ["y"], name="add"),
    ]
    constants = {
        "a_s": np.float32(x_scale),
        "zero": np.int8(0),
        "w": weights,
        "w_s": np.asarray(scale, np.float32),
        "b": random(weights.shape[1], seed=3),
    }
    return graph(nodes, {"x": ["b", weights.shape[0]]}, constants)


@given(
    seed=st.integers(0, 2**16),
    x_scale=st.floats(1e-3, 10),
    bits=st.sampled_from([4, 8]),
    channels=st.booleans(),
)
@settings(max_examples=40, deadline=None)
def test_products_multiply_the_same_integers(
    seed: int, x_scale: float, bits: int, channels: bool
) -> None:
    top = 2 ** (bits - 1) - 1
    generator = np.random.default_rng(seed)
    weights = generator.integers(-top, top + 1, (8, 6), dtype=np.int8)
    scale = generator.uniform(0.01, 1, 6) if channels else 0.25
    model = _product(weights, scale, x_scale)
    x = random(5, 8, seed=seed) * np.float32(100 * x_scale)  # some beyond the grid
    (before,) = run(model, x=x)
    UnsignedActivations()(model)
    (unsigned,) = run(model, x=x)
    np.testing.assert_array_equal(unsigned, before)
    IntegerProducts()(model)
    assert operators(model) == [QUANTIZE, PRODUCT]
    (after,) = run(model, x=x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-5 * float(np.abs(before).max()))


@pytest.mark.parametrize(("steps", "folds"), [(112, True), (-20, True), (130, False), (3.5, False)])
def test_what_is_taken_from_an_input_goes_into_its_zero_point(steps: float, folds: bool) -> None:
    """Where it is a whole number of steps and leaves the zero point in a byte."""
    weights = np.random.default_rng(0).integers(-127, 128, (8, 6), dtype=np.int8)
    model = _product(weights, 0.25, 0.125)
    taken = helper.make_node("Sub", ["x", "taken"], ["less"], name="sub")
    nodes = [taken, *ir.serde.serialize_model(model).graph.node]
    nodes[1].input[0] = "less"
    constants = {i.name: ir.serde.deserialize_tensor(i).numpy() for i in _initializers(model)}
    model = graph(nodes, {"x": ["b", 8]}, constants | {"taken": np.float32(steps * 0.125)})
    # Quarters of a step are exact in binary, and never on the border of two integers.
    x = (np.random.default_rng(1).integers(-200, 400, (50, 8)) + 0.25).astype(np.float32) * 0.125
    (before,) = run(model, x=x)
    for step in (UnsignedActivations(), IntegerProducts(), FoldOffsets()):
        step(model)
    assert operators(model) == ([] if folds else ["Sub"]) + [QUANTIZE, PRODUCT]
    (after,) = run(model, x=x)
    np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-3)


def _initializers(model: ir.Model) -> list[onnx.TensorProto]:
    return list(ir.serde.serialize_model(model).graph.initializer)


@pytest.mark.parametrize("exact", [None, True])
def test_sums_beyond_sixteen_bits_are_exact(tmp_path: Path, exact: bool | None) -> None:
    """Every pair of products overflows 16 bits, in a Linear and in a product of activations.

    With ``exact=None`` the session must know by itself whether this CPU saturates.
    """
    width = 3 * SIZE * SIZE
    weights = np.full((width, 5), 127, np.int8)
    nodes = [
        helper.make_node("Flatten", ["images"], ["x"]),
        *qdq("x", "a"),
        helper.make_node(DEQUANTIZE, ["w", "w_s"], ["wf"], axis=1, name="dq"),
        helper.make_node("MatMul", ["a", "wf"], ["p"], name="product"),
        *qdq("images", "q"),
        helper.make_node("Transpose", ["images"], ["t"], perm=[0, 1, 3, 2]),
        *qdq("t", "k"),
        helper.make_node("MatMul", ["q", "k"], ["scores"], name="scores"),
        helper.make_node("ReduceSum", ["scores", "axes"], ["total"], keepdims=0),
        helper.make_node("Unsqueeze", ["total", "one"], ["column"]),
        helper.make_node("Add", ["p", "column"], ["logits"], name="add"),
    ]
    constants = {f"{name}_s": np.float32(1) for name in ("a", "q", "k")}
    constants |= {"zero": np.int8(0), "w": weights, "w_s": np.ones(5, np.float32)}
    constants |= {"axes": np.array([1, 2, 3]), "one": np.array([1])}
    shape = ["batch", 3, SIZE, SIZE]
    model = graph(nodes, {"images": shape}, constants, outputs=["logits"])
    model.graph.outputs[0].shape = ir.Shape(["batch", 5])
    source = tmp_path / "model.onnx"
    ir.save(model, source)
    assert to_cpu(source, tmp_path / "cpu.onnx") is not None
    images = np.full((2, 3, SIZE, SIZE), 127, np.float32)
    with OnnxRuntimeSession(tmp_path / "cpu.onnx", exact=exact) as session:
        logits = session.run(images)
    expected = width * 127 * 127 + 3 * SIZE * SIZE * SIZE * 127 * 127
    np.testing.assert_array_equal(logits, np.full((2, 5), expected, np.float32))


def test_only_the_first_operand_becomes_unsigned() -> None:
    nodes = [
        *qdq("x", "q"),
        *qdq("z", "k"),
        helper.make_node("MatMul", ["q", "k"], ["y"], name="scores"),
    ]
    constants = {"q_s": np.float32(0.1), "k_s": np.float32(0.2), "zero": np.int8(0)}
    model = graph(nodes, {"x": ["b", 4], "z": [4, "b"]}, constants)
    x, z = random(3, 4) * 20, random(4, 3, seed=1) * 20
    (before,) = run(model, x=x, z=z)
    UnsignedActivations()(model)
    kinds = {node.name: node.outputs[0].dtype for node in nodes_of(model, QUANTIZE)}
    assert kinds == {"q_q": ir.DataType.UINT8, "k_q": ir.DataType.INT8}
    (after,) = run(model, x=x, z=z)
    np.testing.assert_array_equal(after, before)


def test_activations_move_as_bytes() -> None:
    model = moved_and_quantised()
    x = random(4, 6) * 30
    (before,) = run(model, x=x)
    UnsignedActivations()(model)
    QuantizeEarly()(model)
    assert operators(model) == [QUANTIZE, "Transpose", "Reshape", DEQUANTIZE, "Relu"]
    (after,) = run(model, x=x)
    np.testing.assert_array_equal(after, before)  # powers of two: folding rounds nothing


def test_a_value_that_others_read_is_not_moved() -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0], name="t"),
        *qdq("t", "a"),
        helper.make_node("Add", ["a", "t"], ["y"], name="end"),
    ]
    model = graph(nodes, {"x": [4, 6]}, {"a_s": np.float32(0.25), "zero": np.int8(0)})
    UnsignedActivations()(model)
    assert not QuantizeEarly()(model).modified


@pytest.mark.parametrize("label", ["w8a8", "w4a8"])
def test_split_projections_give_the_same_numbers(exported: ExportIn, label: str) -> None:
    source = exported(label)
    images = source.images[:2].numpy()
    model = load(source.path)
    products = len(nodes_of(model, "MatMul"))
    (before,) = run(model, images=images)
    assert SplitJoinedProjections()(model).modified
    Clean()(model)
    assert len(nodes_of(model, "MatMul")) == products + 2 * 2  # two blocks
    assert not nodes_of(model, "Slice")
    (after,) = run(model, images=images)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    assert not SplitJoinedProjections()(model).modified


@pytest.mark.parametrize("label", QUANTIZED)
def test_the_whole_form_gives_the_same_answers(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    source = exported(label)
    images = source.images.numpy()
    form = to_cpu(source.path, tmp_path / "cpu.onnx")
    assert form == tmp_path / "cpu.onnx"
    (before,) = run(load(source.path), images=images)
    for exact in (False, True):
        with OnnxRuntimeSession(form, exact=exact) as session:
            after = session.run(images)
        # Sums are added in another order; where one then rounds to the other integer, it shows.
        assert np.abs(after - before).mean() < 0.02 * before.std()
        assert (after.argmax(1) == before.argmax(1)).mean() >= 0.95


@pytest.mark.parametrize("label", QUANTIZED)
def test_every_quantised_product_runs_in_integers(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    form = to_cpu(exported(label).path, tmp_path / "cpu.onnx")
    assert form is not None
    for exact in (False, True):
        kept = tmp_path / f"{exact}.onnx"
        OnnxRuntimeSession(form, exact=exact, optimized_model=kept).close()
        nodes = onnx.load(kept).graph.node
        kinds = [node.op_type for node in nodes]
        assert not {"MatMul", "Gemm", "FusedMatMul", "SkipLayerNormalization"} & set(kinds)
        integer = [kind for kind in kinds if kind in (PRODUCT, "QLinearMatMul")]
        # Two blocks: q, k, v, the two products of attention, proj, fc1, fc2; and the head.
        assert len(integer) == 2 * 8 + 1
        # What is dequantised is the patch embedding's weight alone, and the coarse step of each
        # grid that has one: of four Linears' inputs, q, k, v and the softmax output in a block.
        assert kinds.count(DEQUANTIZE) == 1 + (2 * 8 if label == "w4a4" else 0)


@pytest.mark.parametrize("label", QUANTIZED)
def test_it_is_counted_like_any_other_graph(exported: ExportIn, label: str, tmp_path: Path) -> None:
    form = to_cpu(exported(label).path, tmp_path / "cpu.onnx")
    assert form is not None
    found = summarize(form)
    assert found["attention"] == {"quantised": 2}
    layers = {kind: count for kind, count in found["layers"].items() if "Conv" not in kind}
    assert sum(layers.values()) == 2 * 6 + 1  # q, k, v, proj, fc1, fc2; and the classifier
    int4 = sum(count for kind, count in layers.items() if " int4 per channel × " in kind)
    assert int4 == (0 if label == "w8a8" else 2 * 6)
    plain = summarize(exported(label).path)
    assert sum(found["weight_bytes"].values()) == sum(plain["weight_bytes"].values())


def test_int4_weights_stay_int4_in_the_file(exported: ExportIn, tmp_path: Path) -> None:
    four = to_cpu(exported("w4a8").path, tmp_path / "four.onnx")
    eight = to_cpu(exported("w8a8").path, tmp_path / "eight.onnx")
    assert four is not None
    assert eight is not None
    stored = [v for v in load(four).graph.initializers.values() if v.dtype == ir.DataType.INT4]
    assert len(stored) == 2 * 6  # the classifier has eight bits
    weights = sum(int(np.prod(v.shape)) for v in stored)
    assert eight.stat().st_size - four.stat().st_size > 0.45 * weights


def test_nothing_is_written_where_nothing_is_multiplied_in_integers(
    exported: ExportIn, tmp_path: Path
) -> None:
    assert to_cpu(exported("fp32").path, tmp_path / "cpu.onnx") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("label", QUANTIZED)
def test_the_file_is_valid_onnx_and_names_the_contrib_domain(
    exported: ExportIn, label: str, tmp_path: Path
) -> None:
    source = exported(label)
    form = to_cpu(source.path, tmp_path / "cpu.onnx")
    assert form is not None
    proto = require_valid(form)
    assert CONTRIB in {entry.domain for entry in proto.opset_import}
    metadata = {entry.key: entry.value for entry in proto.metadata_props}
    before = {entry.key: entry.value for entry in onnx.load(source.path).metadata_props}
    assert metadata == before | {"mimiq.runtimes": "ONNX Runtime on a CPU"}
    names = [node.name for node in proto.graph.node]
    assert len(set(names)) == len(names)
    assert all(names)


def test_a_missing_file_is_the_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="absent"):
        to_cpu(tmp_path / "absent.onnx", tmp_path / "cpu.onnx")
