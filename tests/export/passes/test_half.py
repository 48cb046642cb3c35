"""The half-precision form: its types, its numbers, and what TensorRT-RTX builds from it."""

from __future__ import annotations

import importlib.util
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from export_networks import PRECISIONS, Exported, distance, run_file
from graphs import graph, require_valid
from onnx import helper

from mimiq.errors import UnsupportedModel
from mimiq.export import check, require, summarize, to_fp16
from mimiq.export.graph import load, nodes_of
from mimiq.export.passes.half.to_half import ToHalf
from mimiq.export.patterns.attention import find_attentions
from mimiq.export.patterns.linears import find_linears
from mimiq.export.tensorrt.summary import PlanSummary

Export = Callable[[str], Exported]
HALF, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT

needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)


@pytest.mark.parametrize("label", PRECISIONS)
def test_half_form_is_valid_and_keeps_its_interface(
    exported: Export, label: str, tmp_path: Path
) -> None:
    path = to_fp16(exported(label).path, tmp_path / "half.onnx")
    require_valid(path)
    model = load(path)
    assert [(v.name, v.dtype) for v in model.graph.inputs] == [("images", FLOAT)]
    assert [(v.name, v.dtype) for v in model.graph.outputs] == [("logits", FLOAT)]
    assert str(model.graph.inputs[0].shape) == "[batch,3,32,32]"
    before = summarize(exported(label).path)["metadata"]
    assert summarize(path)["metadata"] == before | {"mimiq.runtimes": "TensorRT, TensorRT-RTX"}


@pytest.mark.parametrize("label", PRECISIONS)
def test_half_form_computes_nearly_the_same(exported: Export, label: str, tmp_path: Path) -> None:
    network = exported(label)
    path = to_fp16(network.path, tmp_path / "half.onnx")
    images = network.images
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        expected = network.module(images)
        disturbed = network.module(images * (1 + 5e-4 * noise))
    # Half rounds at 2^-11 = 5e-4. Roundings to few steps amplify that, in the graph as in the
    # simulation fed with images that differ by as much.
    limit = 1.5 * distance(disturbed, expected) + 1e-3 * float(expected.abs().max())
    assert distance(run_file(path, images), expected) < limit


def test_quantised_linears_are_float_islands(exported: Export) -> None:
    model = load(exported("w8a8").path)
    ToHalf()(model)
    linears = [linear for linear in find_linears(model) if linear.activation is not None]
    assert len(linears) == 9
    for linear in linears:
        assert linear.weight is not None
        assert linear.weight.inputs[1] is not None
        assert linear.weight.inputs[1].dtype == FLOAT
        assert linear.node.outputs[0].dtype == FLOAT
        (bias,) = (use.node for use in linear.node.outputs[0].uses())
        assert bias.op_type == "Add"
        assert bias.outputs[0].dtype == FLOAT
    for attention in find_attentions(model):
        assert attention.scores.outputs[0].dtype == HALF
        assert attention.heads.outputs[0].dtype == HALF
        assert attention.softmax.outputs[0].dtype == HALF
    for node in nodes_of(model, "QuantizeLinear"):
        assert node.inputs[1] is not None
        assert node.inputs[1].dtype == FLOAT
    for node in nodes_of(model, "LayerNormalization", "Gelu", "Conv"):
        assert node.outputs[0].dtype == HALF


def test_weight_only_layers_are_half_throughout(exported: Export, tmp_path: Path) -> None:
    model = load(to_fp16(exported("w4a16-b32").path, tmp_path / "half.onnx"))
    for linear in find_linears(model):
        if linear.node.op_type == "Conv":
            continue
        assert linear.weight is not None
        assert linear.weight.inputs[1] is not None
        assert linear.weight.inputs[1].dtype == HALF
    casts = nodes_of(model, "Cast")
    assert len(casts) == 2  # of the input and the output


def test_the_patch_embedding_is_stored_in_half(exported: Export, tmp_path: Path) -> None:
    """As what its integers stand for, rounded once; nothing is left to widen at run time."""
    source = load(exported("w8a8").path)
    half = load(to_fp16(exported("w8a8").path, tmp_path / "half.onnx"))
    (before,) = (linear for linear in find_linears(source) if linear.node.op_type == "Conv")
    (after,) = (linear for linear in find_linears(half) if linear.node.op_type == "Conv")
    assert before.stored is not None
    assert after.stored is not None
    assert before.scale is not None
    integers, weight = before.stored.const_value, after.stored.const_value
    assert integers is not None
    assert weight is not None
    assert after.weight is None
    assert integers.dtype == ir.DataType.INT8
    wanted = integers.numpy().astype(np.float32) * before.scale.reshape(-1, 1, 1, 1)
    np.testing.assert_array_equal(weight.numpy(), wanted.astype(np.float16))


def test_integers_and_activation_scales_are_unchanged(exported: Export, tmp_path: Path) -> None:
    source = exported("w4a4").path
    before = load(source).graph.initializers
    after = load(to_fp16(source, tmp_path / "half.onnx", int8_carrier=False)).graph.initializers
    checked = 0
    for name, value in before.items():
        if name.startswith("patch_embed"):
            continue
        if value.dtype in (ir.DataType.INT4, ir.DataType.INT8) or name.endswith(
            "input_quantizer.scale"
        ):
            assert value.const_value is not None
            kept = after[name].const_value
            assert kept is not None
            np.testing.assert_array_equal(kept.numpy(), value.const_value.numpy())
            checked += 1
    assert checked >= 30


def test_carrier_is_the_default_for_layers_with_activations(
    exported: Export, tmp_path: Path
) -> None:
    source = exported("w4a8").path
    wide = summarize(to_fp16(source, tmp_path / "wide.onnx"))
    packed = summarize(to_fp16(source, tmp_path / "packed.onnx", int8_carrier=False))
    assert "int4" not in wide["weight_bytes"]
    assert packed["weight_bytes"]["int4"] == summarize(source)["weight_bytes"]["int4"]


def test_weight_only_int4_is_never_widened(exported: Export, tmp_path: Path) -> None:
    for label in ("w4a16", "w4a16-b32"):
        source = exported(label).path
        half = summarize(to_fp16(source, tmp_path / "half.onnx"))
        assert half["weight_bytes"]["int4"] == summarize(source)["weight_bytes"]["int4"]


def test_a_second_conversion_is_refused(exported: Export, tmp_path: Path) -> None:
    path = to_fp16(exported("fp32").path, tmp_path / "half.onnx")
    with pytest.raises(UnsupportedModel):
        to_fp16(path, tmp_path / "again.onnx")
    assert not (tmp_path / "again.onnx").exists()


def test_unknown_operators_are_refused() -> None:
    model = graph([helper.make_node("LRN", ["x"], ["y"], size=3, name="odd")], {"x": [1, 3, 4, 4]})
    with pytest.raises(UnsupportedModel, match="odd is a LRN"):
        ToHalf()(model)


def test_constants_beyond_half_are_refused() -> None:
    model = graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        {"x": [2]},
        {"w": np.asarray([1.0, 1e5], np.float32)},
    )
    with pytest.raises(UnsupportedModel, match="100000"):
        ToHalf()(model)


def test_weight_scales_that_vanish_in_half_are_refused() -> None:
    model = graph(
        [
            helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], axis=1),
            helper.make_node("MatMul", ["x", "wd"], ["y"]),
        ],
        {"x": ["b", 4]},
        {"w": np.ones((4, 2), np.int8), "s": np.asarray([1.0, 1e-9], np.float32)},
    )
    with pytest.raises(UnsupportedModel, match="0 in half"):
        ToHalf()(model)


@needs_rtx
@pytest.mark.parametrize(
    ("label", "linears", "attention"),
    [
        ("fp32", "half", "half"),
        ("w8a8", "int8", "int8"),
        ("w4a8", "int8", "int8"),
        ("w4a16", "int4→half", "half"),
        ("w4a16-b32", "int4→half", "half"),
    ],
)
def test_rtx_builds_every_linear_and_fuses_attention(
    exported: Export, tmp_path: Path, label: str, linears: str, attention: str
) -> None:
    path = to_fp16(exported(label).path, tmp_path / "half.onnx")
    slow = {finding.rule for finding in require(path, "rtx", compute_capabilities=("8.6",))}
    assert slow == ({"int4-in-one-block"} if label == "w4a16" else set())
    built = build(path)
    # The classifier has eight bits where the others have four.
    classifier = "int8→half" if linears == "int4→half" else linears
    assert built.linears() == Counter({linears: 8}) + Counter({classifier: 1})
    assert built.fused_attentions() == {attention: 2}
    assert {product.label for product in built.of_role("convolution")} == {"half"}
    assert built.unpacks == (8 if label == "w4a16" else 0)  # int4 fuses in blocks alone


@needs_rtx
def test_packed_int4_is_unpacked_at_every_inference(exported: Export, tmp_path: Path) -> None:
    """What the rule int4-with-activations says of RTX, and why the carrier is the default."""
    path = to_fp16(exported("w4a8").path, tmp_path / "half.onnx", int8_carrier=False)
    rules = {finding.rule for finding in check(path, "rtx")}
    assert rules == {"int4-with-activations"}
    from mimiq.export.tensorrt.build import BuildOptions, build_engine
    from mimiq.export.tensorrt.plan import read_plan
    from mimiq.runtime.tensorrt.products import RTX

    options = BuildOptions(compute_capabilities=("8.6",), batches=(1, 2, 2))
    assert read_plan(build_engine(path, RTX, options).plan).unpacks >= 8


def build(path: Path) -> PlanSummary:
    """What an engine for compute capability 8.6 does."""
    from mimiq.export.tensorrt.build import BuildOptions, build_engine
    from mimiq.export.tensorrt.plan import read_plan
    from mimiq.runtime.tensorrt.products import RTX

    options = BuildOptions(compute_capabilities=("8.6",), batches=(1, 2, 2))
    return read_plan(build_engine(path, RTX, options).plan)
