"""Weight scales split in two: the numbers stay, the products write half, nothing can overflow."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from tensorrt_graphs import Spec, transformer

from mimiq.export.graph import array, load, save
from mimiq.export.passes.half.split_scales import SplitWeightScales
from mimiq.export.passes.half.to_half import ToHalf
from mimiq.export.patterns.linears import find_linears
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import judge
from mimiq.runtime.tensorrt.products import RTX

rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)


def islands(folder: Path, spec: Spec | None = None) -> Path:
    path = folder / "islands.onnx"
    path.write_bytes(transformer(spec or Spec(depth=2)).SerializeToString())
    return path


def split(source: Path, target: Path) -> ir.Model:
    model = load(source)
    assert SplitWeightScales()(model).modified
    save(model, target)
    onnx.checker.check_model(str(target), full_check=True)
    return model


def logits(path: Path, batch: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": batch})[0])


def test_numbers(tmp_path: Path) -> None:
    # Attention of random weights is almost uniform: its int8 steps would flip at any rounding.
    source, target = islands(tmp_path, Spec(attention="float")), tmp_path / "split.onnx"
    split(source, target)
    batch = np.random.default_rng(0).standard_normal((8, 3, 32, 32)).astype(np.float32)
    before, after = logits(source, batch), logits(target, batch)
    assert before.dtype == after.dtype == np.float32
    # Half's eleven bits, and now and then an activation that rounds the other way.
    assert np.abs(after - before).max() < 0.05 * np.abs(before).max()
    assert np.abs(after - before).mean() < 0.005 * np.abs(before).max()


def test_scales(tmp_path: Path) -> None:
    """Largest times ratio is the old scale, to half's precision; no ratio exceeds 1 but by it."""
    source, target = islands(tmp_path), tmp_path / "split.onnx"
    old = {linear.name: linear.scale for linear in find_linears(load(source))}
    model = split(source, target)
    ratios = {
        node.name.removesuffix("/scale"): array(node.inputs[1])
        for node in model.graph
        if (node.name or "").endswith("/scale")
    }
    for linear in find_linears(model):
        wanted = old[linear.name]
        if linear.activation is None:
            continue
        largest = linear.scale
        assert linear.granularity == "per tensor"
        assert largest is not None
        assert wanted is not None
        np.testing.assert_allclose(largest * ratios[linear.name], wanted, rtol=2**-9)
        assert ratios[linear.name].max() <= 1.001
    assert len(ratios) == 9  # four a block, and the head


@pytest.mark.parametrize(
    "spec",
    [
        Spec(weights="int4"),  # no kernel takes INT4 with one scale
        Spec(activations="float", attention="float"),
        Spec(weights="float", activations="float", attention="float"),
        Spec(scales_along_k=True),
        Spec(half=False, weights="int4-block", activations="float", attention="float"),
    ],
)
def test_what_stays_as_it_is(tmp_path: Path, spec: Spec) -> None:
    model = load(islands(tmp_path, spec))
    assert not SplitWeightScales()(model).modified


def test_scales_too_small_for_half(tmp_path: Path) -> None:
    model = load(islands(tmp_path, Spec(half=False)))
    for linear in find_linears(model):
        if linear.weight is not None and linear.weight.inputs[1] is not None:
            scale = linear.weight.inputs[1]
            scale.const_value = ir.tensor((1e-4 * scale.const_value.numpy()).astype(np.float32))
    ToHalf()(model)
    assert not SplitWeightScales()(model).modified


def test_sums_too_large_for_half_stay_in_fp32(tmp_path: Path) -> None:
    """One Linear whose input may be so large that 65504 is in reach."""
    model = load(islands(tmp_path))
    linear = next(linear for linear in find_linears(model) if linear.activation is not None)
    assert linear.activation is not None
    assert linear.largest_output is not None
    step = linear.activation.inputs[1]
    assert step is not None
    larger = 0.03 * 65600 / linear.largest_output
    step.const_value = ir.tensor(np.asarray(larger, np.float32), name=step.name)
    assert linear.largest_output == pytest.approx(65600, rel=1e-3)
    SplitWeightScales()(model)
    kept = [found.name for found in find_linears(model) if found.granularity == "per channel"]
    assert kept == [linear.name]


@rtx
@pytest.mark.parametrize("capability", ["7.5", "8.0"])
def test_engines(tmp_path: Path, capability: str) -> None:
    """Every product writes half, scaled; and Turing, which has no fp32 products, takes it."""
    target = tmp_path / "split.onnx"
    split(islands(tmp_path), target)
    built = build_engine(target, RTX, BuildOptions(compute_capabilities=(capability,)))
    summary = read_plan(built.plan)
    assert summary.linears() == {"int8": 9}
    assert summary.fused_attentions() == {"int8": 2}
    assert {product.output for product in summary.of_role("linear")} == {"half"}
    proof = judge(summary, built.wanted)
    assert proof.fallbacks == proof.overflow == ()


@rtx
def test_the_islands_write_four_bytes(tmp_path: Path) -> None:
    """What the split is for."""
    built = build_engine(islands(tmp_path), RTX, BuildOptions())
    assert {p.output for p in read_plan(built.plan).of_role("linear")} == {"float"}
