"""Activations: Q/DQ with the clip they need, and transposes before them."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
import torch
from graphs import check, fake_quantize, graph, operators, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mimiq.errors import UnsupportedModel
from mimiq.export.graph import DEQUANTIZE, QUANTIZE, array, nodes_of
from mimiq.export.passes.qdq.activations import LowerActivations
from mimiq.export.passes.qdq.key_transpose import TransposeBeforeQuantize
from mimiq.export.patterns.narrowing import narrowed, narrowing
from mimiq.quantize.fake_quant import Grid, fake_quantize_to
from mimiq.quantize.fake_quant import fake_quantize as simulate


def quantizer(grid: Grid, scale: float, before: str | None = None) -> ir.Model:
    """y = FakeQuantize(x), or of an operator's output."""
    nodes = [] if before is None else [helper.make_node(before, ["x"], ["v"])]
    source = "x" if before is None else "v"
    return graph(
        [
            *nodes,
            fake_quantize(
                source,
                "s",
                "y",
                grid.qmin,
                grid.qmax,
                ratio=grid.ratio,
                coarse=grid.coarse,
                below=grid.below,
            ),
        ],
        {"x": ["n", 16]},
        {"s": np.float32(scale)},
    )


def lowered(model: ir.Model) -> ir.Model:
    LowerActivations()(model)
    model.opset_imports.pop("mimiq", None)
    check(model)
    return model


windows = st.integers(-128, 0).flatmap(
    lambda low: st.integers(1, 127).map(lambda high: Grid(low, high))
)

scales = st.floats(1e-5, 1e4).map(lambda scale: float(np.float32(scale)))


@given(grid=windows, scale=scales, seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_any_window_of_int8_gives_the_simulated_values(grid: Grid, scale: float, seed: int) -> None:
    reach = 2.0 * scale * max(-grid.qmin, grid.qmax)
    x = np.random.default_rng(seed).uniform(-reach, reach, (8, 16)).astype(np.float32)
    edges = np.asarray([grid.qmin, grid.qmax, 0.5, -0.5, 1.5, grid.qmax + 0.5], np.float32)
    x[0, :6] = edges * np.float32(scale)  # the ends of the grid, and ties
    expected = simulate(torch.from_numpy(x), torch.tensor(scale), grid.qmin, grid.qmax, -1, 0)
    np.testing.assert_array_equal(run(lowered(quantizer(grid, scale)), x=x)[0], expected.numpy())


two_steps = st.builds(
    Grid,
    st.integers(-8, 0),
    st.integers(1, 15),
    st.integers(2, 12),
    st.integers(1, 9),
    st.integers(0, 9),
)


@given(grid=two_steps, scale=scales, seed=st.integers(0, 2**16))
@settings(max_examples=40, deadline=None)
def test_a_grid_of_two_steps_gives_the_simulated_values(
    grid: Grid, scale: float, seed: int
) -> None:
    low, high = 1.3 * scale * (grid.bottom - 2), 1.3 * scale * grid.top
    x = np.random.default_rng(seed).uniform(low, high, (8, 16)).astype(np.float32)
    expected = fake_quantize_to(torch.from_numpy(x), torch.tensor(scale), grid).numpy()
    found = run(lowered(quantizer(grid, scale)), x=x)[0]
    # What lies within rounding of the border of two integers may go to either.
    same = np.isclose(found, expected, rtol=1e-5, atol=1e-5 * scale)
    fine = (expected >= (grid.qmin - 0.5) * scale) & (expected <= (grid.qmax + 0.5) * scale)
    step = np.where(fine, 1, grid.ratio) * scale
    border = np.isclose(np.abs(x - expected), step / 2, rtol=1e-3)
    assert (same | border).all()
    assert same.mean() > 0.9


@pytest.mark.parametrize("grid", [Grid(-2, 5, 4, 8), Grid(-5, 4, 2, 3, 3)])
def test_a_grid_of_two_steps_is_read_as_one(grid: Grid) -> None:
    model = lowered(quantizer(grid, 0.1))
    coarse, last = nodes_of(model, QUANTIZE)
    found = narrowing(last)
    assert found is not None
    assert found.clip.inputs[0] is model.graph.inputs[0]
    assert coarse in found.nodes
    assert [node.op_type for node in found.coarse] == [
        "Sub", "Clip", QUANTIZE, DEQUANTIZE, "Add"
    ]  # fmt: skip
    assert narrowed(model.graph.inputs[0]) is last.inputs[0]
    alone = narrowing(coarse)
    assert alone is not None
    assert not alone.coarse


@given(grid=windows, scale=scales, before=st.sampled_from(["Softmax", "Relu"]))
@settings(max_examples=30, deadline=None)
def test_clips_left_out_for_known_ranges_change_nothing(
    grid: Grid, scale: float, before: str
) -> None:
    x = np.random.default_rng(0).normal(0, 8, (8, 16)).astype(np.float32)
    bare = graph([helper.make_node(before, ["x"], ["y"])], {"x": ["n", 16]})
    bare.opset_imports.pop("mimiq")
    source = torch.from_numpy(run(bare, x=x)[0])
    expected = simulate(source, torch.tensor(scale), grid.qmin, grid.qmax, -1, 0)
    actual = run(lowered(quantizer(grid, scale, before)), x=x)[0]
    np.testing.assert_array_equal(actual, expected.numpy())


@pytest.mark.parametrize(
    ("grid", "scale", "before", "sides"),
    [
        (Grid.signed(8), 0.1, None, None),
        (Grid(0, 127), 1 / 127, "Softmax", None),
        (Grid(0, 127), 0.001, "Softmax", None),  # int8 itself saturates above
        (Grid(0, 127), 1 / 127, None, (True, False)),
        (Grid.signed(4), 0.1, None, (True, True)),
        (Grid(0, 15), 1 / 15, "Softmax", None),
        (Grid(0, 15), 1 / 20, "Softmax", (False, True)),
        (Grid(-2, 13), 0.1, "Relu", (False, True)),
        (Grid.shifted(8, -10), 0.05, "Relu", None),
        (Grid.shifted(8, -10), 0.05, None, (True, False)),
    ],
)
def test_clip_only_where_values_could_leave_the_grid(
    grid: Grid, scale: float, before: str | None, sides: tuple[bool, bool] | None
) -> None:
    model = lowered(quantizer(grid, scale, before))
    clips = nodes_of(model, "Clip")
    if sides is None:
        assert not clips
        return
    low, high = (*clips[0].inputs[1:], None)[:2]
    assert (low is not None, high is not None) == sides


def test_gelu_needs_no_lower_clip_where_its_minimum_is_on_the_grid() -> None:
    def clipped(grid: Grid, scale: float) -> list[ir.Node]:
        return nodes_of(lowered(quantizer(grid, scale, "Gelu")), "Clip")

    assert not clipped(Grid.shifted(8, -17), 0.01)
    assert clipped(Grid.shifted(8, -16), 0.01)


def test_zero_point_is_an_int8_zero() -> None:
    model = lowered(quantizer(Grid.signed(8), 0.1))
    assert operators(model) == [QUANTIZE, DEQUANTIZE]
    for node in model.graph:
        zero = array(node.inputs[2])
        assert zero is not None
        assert zero.dtype == np.int8
        assert zero == 0


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), -1.0])
def test_impossible_scales_are_refused(scale: float) -> None:
    with pytest.raises(UnsupportedModel, match="not a positive number"):
        lowered(quantizer(Grid.signed(8), scale))


@pytest.mark.parametrize("grid", [Grid(0, 255), Grid(-200, 100), Grid(3, 10), Grid(0, 7, 16, 8)])
def test_grids_that_are_no_window_of_int8_are_refused(grid: Grid) -> None:
    with pytest.raises(UnsupportedModel, match="no window"):
        lowered(quantizer(grid, 0.1))


def test_per_channel_activations_are_refused() -> None:
    model = graph(
        [fake_quantize("x", "s", "y", -128, 127, axis=1)],
        {"x": ["n", 16]},
        {"s": np.ones(16, np.float32)},
    )
    with pytest.raises(UnsupportedModel, match="not one constant number"):
        LowerActivations()(model)


def test_transposes_move_before_the_quantiser() -> None:
    def model() -> ir.Model:
        return graph(
            [
                fake_quantize("x", "s", "k", -8, 7),
                helper.make_node("Transpose", ["k"], ["kt"], perm=[1, 0]),
                helper.make_node("MatMul", ["q", "kt"], ["y"]),
            ],
            {"x": [4, 16], "q": ["n", 16]},
            {"s": np.float32(0.3)},
        )

    moved = model()
    assert TransposeBeforeQuantize()(moved).modified
    assert operators(moved) == ["Transpose", "FakeQuantize", "MatMul"]
    random = np.random.default_rng(0)
    x, q = (random.standard_normal(s).astype(np.float32) for s in ((4, 16), (3, 16)))
    plain, swapped = (run(lowered(m), x=x, q=q)[0] for m in (model(), moved))
    np.testing.assert_allclose(swapped, plain, rtol=1e-5, atol=1e-6)


def test_transposes_stay_where_the_quantised_tensor_is_read_twice() -> None:
    model = graph(
        [
            fake_quantize("x", "s", "k", -8, 7),
            helper.make_node("Transpose", ["k"], ["kt"], perm=[1, 0]),
            helper.make_node("MatMul", ["k", "kt"], ["y"]),
        ],
        {"x": [4, 16]},
        {"s": np.float32(0.3)},
    )
    assert not TransposeBeforeQuantize()(model).modified
