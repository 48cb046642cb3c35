"""Weights: Gemm to MatMul, folded transposes, integers, and the INT8 carrier."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from graphs import check, fake_quantize, graph, operators, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import DEQUANTIZE, nodes_of
from mimiq.export.passes.clean import Clean
from mimiq.export.passes.half.int4_carrier import Int4ToInt8Carrier
from mimiq.export.passes.qdq.gemm import GemmToMatMul
from mimiq.export.passes.qdq.transpose import FoldWeightTransposes
from mimiq.export.passes.qdq.weights import LowerWeights, quantize_array
from mimiq.quantize.fake_quant import Grid
from mimiq.quantize.fake_quant import fake_quantize as simulate


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def linear(
    grid: Grid, scale: np.ndarray, axis: int, block: int = 0, inputs: int = 8, outputs: int = 4
) -> ir.Model:
    """y = x · FakeQuantize(W)ᵀ with W as torch keeps it, [N, K]."""
    return graph(
        [
            fake_quantize("w", "s", "wq", grid.qmin, grid.qmax, axis, block),
            helper.make_node("Transpose", ["wq"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["y"]),
        ],
        {"x": ["b", inputs]},
        {"w": random(outputs, inputs), "s": np.asarray(scale, np.float32)},
    )


def lowered(model: ir.Model) -> ir.Model:
    for step in (GemmToMatMul(), FoldWeightTransposes(), LowerWeights(), Clean()):
        step(model)
    check(model)
    return model


@given(
    bits=st.integers(2, 8),
    granularity=st.sampled_from(["tensor", "channel", "block"]),
    seed=st.integers(0, 2**16),
    spread=st.floats(1e-4, 1e3),
)
@settings(max_examples=40, deadline=None)
def test_integers_are_those_of_the_simulation(
    bits: int, granularity: str, seed: int, spread: float
) -> None:
    weight = random(6, 8, seed=seed) * np.float32(spread)
    weight[0, :3] = (0.5, 1.5, -2.5)  # ties
    grid = Grid.weight(bits)
    shape, axis, block = {"tensor": ((), -1, 0), "channel": ((6,), 0, 0), "block": ((6, 2), 1, 4)}[
        granularity
    ]
    generator = np.random.default_rng(seed)
    scale = generator.uniform(0.2, 2.0, shape).astype(np.float32) * np.float32(spread / grid.qmax)
    expected = simulate(
        torch.from_numpy(weight),
        torch.from_numpy(np.asarray(scale)),
        grid.qmin,
        grid.qmax,
        axis,
        block,
    )
    model = lowered(
        graph(
            [
                fake_quantize("w", "s", "wq", grid.qmin, grid.qmax, axis, block),
                helper.make_node("MatMul", ["x", "wq"], ["y"]),
            ],
            {"x": ["b", 6]},
            {"w": weight, "s": scale},
        )
    )
    # A product with the identity gives the dequantised weight itself.
    actual = run(model, x=np.eye(6, dtype=np.float32))[0]
    np.testing.assert_array_equal(actual, expected.numpy())


@pytest.mark.parametrize(
    ("bits", "kind"),
    [(2, "INT4"), (4, "INT4"), (5, "INT8"), (8, "INT8")],
)
def test_narrow_grids_are_stored_as_int4(bits: int, kind: str) -> None:
    model = lowered(linear(Grid.weight(bits), np.full(4, 0.1), 0))
    (node,) = nodes_of(model, DEQUANTIZE)
    stored = node.inputs[0]
    assert stored is not None
    assert stored.dtype == ir.DataType[kind]
    assert stored.const_value is not None
    assert stored.const_value.nbytes == (16 if kind == "INT4" else 32)
    raw = next(i for i in ir.to_proto(model).graph.initializer if i.name == stored.name)
    assert len(raw.raw_data) == stored.const_value.nbytes


def test_transposed_weights_keep_their_channels() -> None:
    scale = np.linspace(0.05, 0.4, 4)
    model = lowered(linear(Grid.signed(8), scale, 0))
    assert operators(model) == [DEQUANTIZE, "MatMul"]
    node = model.graph[0]
    assert node.attributes["axis"].as_int() == 1
    expected = simulate(
        torch.from_numpy(random(4, 8)), torch.tensor(scale, dtype=torch.float32), -128, 127, 0, 0
    )
    actual = run(model, x=np.eye(8, dtype=np.float32))[0]
    np.testing.assert_array_equal(actual, expected.numpy().T)


def test_transposed_blocks_lie_along_the_inputs() -> None:
    scale = np.random.default_rng(3).uniform(0.1, 0.5, (4, 2))
    model = lowered(linear(Grid.signed(4), scale, 1, block=4))
    (node,) = nodes_of(model, DEQUANTIZE)
    assert node.attributes["axis"].as_int() == 0
    assert node.attributes["block_size"].as_int() == 4
    expected = simulate(
        torch.from_numpy(random(4, 8)), torch.tensor(scale, dtype=torch.float32), -8, 7, 1, 4
    )
    actual = run(model, x=np.eye(8, dtype=np.float32))[0]
    np.testing.assert_array_equal(actual, expected.numpy().T)


def test_one_scale_for_int4_becomes_one_a_channel() -> None:
    model = lowered(linear(Grid.signed(4), np.asarray(0.25), -1))
    (node,) = nodes_of(model, DEQUANTIZE)
    assert node.inputs[1] is not None
    assert node.inputs[1].shape == ir.Shape([4])


def test_convolution_weights_stay_int8() -> None:
    model = graph(
        [
            fake_quantize("w", "s", "wq", -8, 7, 0),
            helper.make_node("Conv", ["x", "wq"], ["y"], kernel_shape=[2, 2]),
        ],
        {"x": ["b", 3, 4, 4]},
        {"w": random(5, 3, 2, 2), "s": np.full(5, 0.2, np.float32)},
    )
    lowered(model)
    (node,) = nodes_of(model, DEQUANTIZE)
    assert node.inputs[0] is not None
    assert node.inputs[0].dtype == ir.DataType.INT8


def test_plain_transposes_fold_and_computed_ones_stay() -> None:
    model = graph(
        [
            helper.make_node("Transpose", ["w"], ["wt"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "wt"], ["z"]),
            helper.make_node("Transpose", ["z"], ["y"], perm=[1, 0]),
        ],
        {"x": ["b", 8]},
        {"w": random(4, 8)},
    )
    x = random(3, 8, seed=1)
    expected = run(model, x=x)[0]
    lowered(model)
    assert operators(model) == ["MatMul", "Transpose"]
    np.testing.assert_array_equal(run(model, x=x)[0], expected)


def test_scales_that_are_computed_are_refused() -> None:
    model = graph(
        [
            helper.make_node("Abs", ["x"], ["s"]),
            fake_quantize("w", "s", "wq", -8, 7, 0),
            helper.make_node("MatMul", ["z", "wq"], ["y"]),
        ],
        {"x": [4], "z": ["b", 4]},
        {"w": random(4, 8)},
    )
    with pytest.raises(UnsupportedModel, match="scale of w is computed"):
        LowerWeights()(model)


def test_grids_wider_than_int8_are_refused() -> None:
    with pytest.raises(UnsupportedModel, match="INT8 cannot hold"):
        lowered(linear(Grid(-200, 200), np.full(4, 0.1), 0))


@pytest.mark.parametrize("trans_b", [0, 1])
@pytest.mark.parametrize("bias", [False, True])
def test_gemm_becomes_a_linear(trans_b: int, bias: bool) -> None:
    constants = {"w": random(4, 8) if trans_b else random(8, 4), "c": random(4)}
    inputs = ["x", "w", "c"] if bias else ["x", "w"]
    model = graph(
        [helper.make_node("Gemm", inputs, ["y"], transB=trans_b)], {"x": ["b", 8]}, constants
    )
    x = random(3, 8, seed=1)
    expected = run(model, x=x)[0]
    lowered(model)
    assert operators(model) == (["MatMul", "Add"] if bias else ["MatMul"])
    np.testing.assert_allclose(run(model, x=x)[0], expected, rtol=1e-5, atol=1e-6)
    assert model.graph.outputs[0].name == "y"


@pytest.mark.parametrize("attributes", [{"alpha": 0.5}, {"beta": 2.0}, {"transA": 1}])
def test_other_gemms_are_refused(attributes: dict[str, float]) -> None:
    model = graph(
        [helper.make_node("Gemm", ["x", "w"], ["y"], name="odd", **attributes)],
        {"x": [8, 8]},
        {"w": random(8, 4)},
    )
    with pytest.raises(UnsupportedModel, match="odd"):
        GemmToMatMul()(model)


def int4_linear(activations: bool = True, block: int = 0, zero: bool = False) -> ir.Model:
    """x · W with stored INT4 weights, and x perhaps quantised."""
    weight = helper.make_tensor("w", onnx.TensorProto.INT4, [8, 4], [-8, 7, 3, -1] * 8)
    constants = {
        "w": weight,
        "s": np.full((2, 4) if block else 4, 0.2, np.float32),
        "a": np.float32(0.05),
        "z8": np.int8(0),
        "z4": helper.make_tensor("z4", onnx.TensorProto.INT4, [4], [1] * 4),
    }
    attributes = {"axis": 0, "block_size": block} if block else {"axis": 1}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "a", "z8"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "a", "z8"], ["d"]),
        helper.make_node(
            "DequantizeLinear", ["w", "s", "z4"] if zero else ["w", "s"], ["wd"], **attributes
        ),
        helper.make_node("MatMul", ["d" if activations else "x", "wd"], ["y"]),
    ]
    model = graph(nodes, {"x": ["b", 8]}, constants)
    Clean()(model)
    return model


def test_carrier_changes_the_type_and_no_value() -> None:
    model = int4_linear()
    x = random(3, 8, seed=2)
    before = run(model, x=x)[0]
    Int4ToInt8Carrier()(model)
    assert model.graph.initializers["w"].dtype == ir.DataType.INT8
    check(model)
    np.testing.assert_array_equal(run(model, x=x)[0], before)


@pytest.mark.parametrize("arguments", [{"activations": False}, {"block": 4}])
def test_carrier_leaves_weight_only_layers_and_blocks_alone(arguments: dict[str, Any]) -> None:
    model = int4_linear(**arguments)
    assert not Int4ToInt8Carrier()(model).modified
    assert model.graph.initializers["w"].dtype == ir.DataType.INT4


def test_carrier_refuses_int4_with_zero_points() -> None:
    with pytest.raises(UnsupportedModel, match="INT4 weight w"):
        Int4ToInt8Carrier()(int4_linear(zero=True))


def test_quantize_array_rounds_ties_to_even() -> None:
    weight = np.asarray([[0.5, 1.5, 2.5, -0.5, -1.5, 100.0, -100.0]], np.float32)
    steps = quantize_array(weight, np.asarray(1.0, np.float32), -8, 7, -1, 0)
    assert steps.tolist() == [[0, 2, 2, 0, -2, 7, -8]]
    assert steps.dtype == np.int8
