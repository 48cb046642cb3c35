"""A pass that is run on the wrong graph says what to run first."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir
import pytest
from export_networks import Exported
from graphs import fake_quantize, graph
from onnx import helper

from mimiq.export import passes
from mimiq.export.graph import load
from mimiq.export.passes.conditions import PromiseBroken, TooEarly
from mimiq.export.passes.half.split_scales import SplitWeightScales
from mimiq.export.passes.half.to_half import ToHalf
from mimiq.export.passes.integers.integer_offset import FoldOffsets
from mimiq.export.passes.integers.integer_products import IntegerProducts
from mimiq.export.passes.integers.unsigned_activations import UnsignedActivations
from mimiq.export.passes.qdq.activations import LowerActivations
from mimiq.export.passes.qdq.gemm import GemmToMatMul
from mimiq.export.passes.qdq.transpose import FoldWeightTransposes
from mimiq.export.passes.qdq.weights import LowerWeights

ExportIn = Callable[[str], Exported]


def _as_exported(*, gemm: bool) -> ir.Model:
    """A fake-quantised Linear as torch's exporter writes it."""
    nodes = [fake_quantize("x", "a_s", "a", -128, 127), fake_quantize("w", "w_s", "wq", -127, 127)]
    if gemm:
        nodes.append(helper.make_node("Gemm", ["a", "wq"], ["y"], transB=1, name="fc"))
    else:
        nodes.append(helper.make_node("Transpose", ["wq"], ["wt"], perm=[1, 0], name="turned"))
        nodes.append(helper.make_node("MatMul", ["a", "wt"], ["y"], name="fc"))
    constants = {"a_s": np.float32(0.1), "w_s": np.float32(0.1), "w": np.ones((5, 4), np.float32)}
    return graph(nodes, {"x": ["b", 4]}, constants)


@pytest.mark.parametrize(
    ("step", "gemm", "says"),
    [
        (FoldWeightTransposes(), True, r"Gemm fc\.\n  Run GemmToMatMul first"),
        (LowerWeights(), False, r"Transpose turned\.\n  Run FoldWeightTransposes first"),
        (LowerActivations(), False, r"FakeQuantize wq\.\n  Run LowerWeights first"),
        (ToHalf(), False, r"FakeQuantize a\.\n  Run the passes of lowering first"),
        (UnsignedActivations(), False, r"FakeQuantize a\.\n  Run the passes of lowering first"),
    ],
)
def test_what_the_exporter_wrote_is_lowered_in_order(
    step: ir.passes.InPlacePass, gemm: bool, says: str
) -> None:
    with pytest.raises(TooEarly, match=says):
        step(_as_exported(gemm=gemm))


@pytest.mark.parametrize(
    ("step", "says"),
    [
        (SplitWeightScales(), r"qkv/MatMul\.\n  Run ToHalf first"),
        (IntegerProducts(), r"QuantizeLinear .*\.\n  Run UnsignedActivations first"),
    ],
)
def test_the_forms_of_the_shipped_graph_are_made_in_order(
    exported: ExportIn, step: ir.passes.InPlacePass, says: str
) -> None:
    with pytest.raises(TooEarly, match=says):
        step(load(exported("w8a8").path))


def test_offsets_are_folded_behind_integer_products(exported: ExportIn) -> None:
    model = load(exported("w8a8").path)
    UnsignedActivations()(model)
    with pytest.raises(TooEarly, match="Run IntegerProducts first"):
        FoldOffsets()(model)


def test_a_node_that_a_pass_leaves_behind_is_named() -> None:
    class Broken(GemmToMatMul):
        def call(self, model: ir.Model) -> ir.passes.PassResult:
            return ir.passes.PassResult(model, modified=False)

    with pytest.raises(PromiseBroken, match="left Gemm fc, but every Linear is"):
        Broken()(_as_exported(gemm=True))


@pytest.mark.parametrize("label", ["w8a8", "w4a8", "w4a4"])
def test_conditions_hold_along_each_list(exported: ExportIn, label: str) -> None:
    for steps in (passes.cpu(), passes.half_precision()):
        passes.run(load(exported(label).path), steps)
