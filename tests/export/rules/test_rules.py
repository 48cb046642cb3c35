"""Every rule on a graph that breaks it, and on those that do not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from export_networks import PRECISIONS
from graphs import fake_quantize, graph
from onnx import TensorProto, helper
from rules_found import Export, found, half
from tensorrt_graphs import Spec, transformer

from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export import Finding, check, require
from mimiq.export.graph import (
    DEQUANTIZE,
    QUANTIZE,
    add_initializer,
    load,
    nodes_of,
)
from mimiq.export.rules import RULES

TENSORRT = ("rtx", "trt")


def handmade(folder: Path, **spec: Any) -> Path:
    path = folder / "graph.onnx"
    onnx.save(transformer(Spec(**spec)), path)
    return path


def product(activation: int = TensorProto.INT8, zero: int = 0, **weight: Any) -> ir.Model:
    """x · W with both sides quantised; ``weight`` gives kind, scale and attributes."""
    kind = weight.pop("kind", TensorProto.INT8)
    scale = weight.pop("scale", np.full(4, 0.1, np.float32))
    return graph(
        [
            helper.make_node(QUANTIZE, ["x", "a", "z"], ["q"], name="quantize"),
            helper.make_node(DEQUANTIZE, ["q", "a", "z"], ["d"], name="dequantize"),
            helper.make_node(DEQUANTIZE, ["w", "s"], ["wd"], name="weight", **weight),
            helper.make_node("MatMul", ["d", "wd"], ["y"], name="product"),
        ],
        {"x": ["b", 8]},
        {
            "a": np.float32(0.1),
            "z": helper.make_tensor("z", activation, [], [zero]),
            "w": helper.make_tensor("w", kind, [8, 4], [1] * 32),
            "s": scale,
        },
    )


@pytest.mark.parametrize("label", PRECISIONS)
@pytest.mark.parametrize("target", TENSORRT)
def test_the_half_form_passes(exported: Export, label: str, target: str, tmp_path: Path) -> None:
    expected: set[str] = set()
    if label == "w4a4":
        expected = {"attention-clipped"}
    if label == "w4a16-b32" and target == "trt":
        expected = {"block-sizes"}
    if label == "w4a16" and target == "rtx":
        expected = {"int4-in-one-block"}
    model = half(exported, label, tmp_path)
    assert {rule for rule, _ in found(model, target, compute_capabilities=("8.6",))} == expected


@pytest.mark.parametrize("label", PRECISIONS)
def test_every_precision_runs_on_onnx_runtime(exported: Export, label: str) -> None:
    slow = require(exported(label).path, "ort")
    rules = {finding.rule for finding in slow}
    assert rules == ({"int4-with-activations"} if label in ("w4a8", "w4a4") else set())


@pytest.mark.parametrize(
    ("spec", "rule", "severity"),
    [
        ({"zero_point": 3}, "zero-points", "refused"),
        ({"activations": "uint8"}, "unsigned-activations", "refused"),
        ({"scales_along_k": True}, "weight-scales-along-inputs", "falls back"),
        ({"weights": "int4-block"}, "blocks-with-activations", "refused"),
        ({"head_dim": 24}, "attention-too-large", "falls back"),
        ({"image": 96}, "attention-too-large", "falls back"),  # 577 tokens
        ({"island": False}, "half-accumulation", "overflows"),
        ({"island": False, "scores": "q"}, "fused-qkv", "falls back"),
        ({"island": False, "scores": "product", "split": "slice"}, "fused-qkv", "falls back"),
    ],
)
def test_foreign_graphs_that_break_a_rule(
    spec: dict[str, Any], rule: str, severity: str, tmp_path: Path
) -> None:
    path = handmade(tmp_path, **spec)
    for target in TENSORRT:
        assert (rule, severity) in found(path, target)
        with pytest.raises(UnsupportedTarget):
            require(path, target)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"scores": "q"},  # harmless in an fp32 island
        {"scores": "q", "half": False},
        {"attention": "float"},
        {"weights": "float", "activations": "float", "attention": "float"},
        {"island": True, "fused_qkv": False, "scores": "q"},
        {"image": 80},  # 401 tokens
        {"head_dim": 16},
        {"head_dim": 64},
    ],
)
def test_foreign_graphs_that_break_none(spec: dict[str, Any], tmp_path: Path) -> None:
    assert not found(handmade(tmp_path, **spec))


def test_separate_qkv_products_escape_the_trap(tmp_path: Path) -> None:
    rules = {r for r, _ in found(handmade(tmp_path, island=False, scores="q", fused_qkv=False))}
    assert "fused-qkv" not in rules


def test_fp8_needs_ada(tmp_path: Path) -> None:
    path = handmade(tmp_path, weights="fp8", activations="fp8", attention="fp8")
    assert ("fp8-needs-ada", "refused") in found(path, compute_capabilities=("8.6", "8.9"))
    assert not found(path, compute_capabilities=("8.9", "12.0"))
    assert not found(path)


def test_blocks_of_other_sizes_are_refused(tmp_path: Path) -> None:
    spec = {"weights": "int4-block", "activations": "float", "attention": "float"}
    for block, targets in ((64, set()), (32, {"trt"}), (16, {"trt"})):
        path = handmade(tmp_path, block=block, **spec)
        broken = {target for target in RULES if ("block-sizes", "refused") in found(path, target)}
        assert broken == targets


@pytest.mark.parametrize("target", RULES)
def test_blocks_that_do_not_divide_the_inputs_are_refused(target: str) -> None:
    scale = np.full((2, 4), 0.1, np.float32)
    model = graph(
        [
            helper.make_node(DEQUANTIZE, ["w", "s"], ["wd"], axis=0, block_size=16),
            helper.make_node("MatMul", ["x", "wd"], ["y"], name="product"),
        ],
        {"x": ["b", 24]},
        {"w": helper.make_tensor("w", TensorProto.INT4, [24, 4], [1] * 96), "s": scale},
    )
    assert found(model, target) == {("block-sizes", "refused"): 1}


@pytest.mark.parametrize(
    ("capability", "kept"), [(("7.5",), False), (("8.0", "7.5"), False), (("8.0", "8.6"), True)]
)
def test_turing_has_no_float_products_and_no_int4(
    exported: Export, capability: tuple[str, ...], kept: bool, tmp_path: Path
) -> None:
    for model in (load(exported("w8a8").path), half(exported, "w4a16-b32", tmp_path)):
        rules = found(model, compute_capabilities=capability)
        assert (("turing", "refused") not in rules) == kept
    rules = found(half(exported, "w8a8", tmp_path), compute_capabilities=capability)
    assert ("turing", "refused") not in rules  # its products are half


@pytest.mark.parametrize(
    ("operator", "domain"),
    [
        ("MatMulInteger", ""),
        ("DynamicQuantizeLinear", ""),
        ("QLinearMatMul", ""),
        ("MatMulNBits", "com.microsoft"),
    ],
)
def test_integer_operators_are_refused(operator: str, domain: str) -> None:
    model = graph([helper.make_node("Relu", ["x"], ["y"], name="odd")], {"x": [2, 2]})
    model.graph[0].op_type, model.graph[0].domain = operator, domain
    for target in TENSORRT:
        (finding,) = [f for f in check(model, target) if f.rule == "integer-operators"]  # type: ignore[arg-type]
        assert finding.node == "odd"
        assert operator in finding.problem


def test_unlowered_operators_are_refused_everywhere() -> None:
    model = graph([fake_quantize("x", "s", "y", -8, 7)], {"x": [2]}, {"s": np.float32(1)})
    for target in RULES:
        with pytest.raises(UnsupportedTarget, match="FakeQuantize"):
            require(model, target)


@pytest.mark.parametrize("kind", [TensorProto.UINT4, TensorProto.UINT8, TensorProto.INT32])
def test_other_stored_types_are_refused(kind: int) -> None:
    assert ("integer-types", "refused") in found(product(kind=kind, axis=1))


def test_a_bias_in_int32_is_named() -> None:
    model = graph(
        [
            helper.make_node(DEQUANTIZE, ["b", "s"], ["bd"], name="bias"),
            helper.make_node("Add", ["x", "bd"], ["y"]),
        ],
        {"x": [2, 4]},
        {"b": np.ones(4, np.int32), "s": np.float32(0.1)},
    )
    (finding,) = check(model, "rtx")
    assert finding.node == "bias"
    assert "int32" in finding.problem


def test_a_quantiser_without_zero_point_writes_uint8() -> None:
    model = product(axis=1)
    for node in nodes_of(model, QUANTIZE):
        node.resize_inputs(2)
    assert ("unsigned-activations", "refused") in found(model)
    nodes_of(model, QUANTIZE)[0].attributes["output_dtype"] = ir.AttrInt64(
        "output_dtype", TensorProto.INT8
    )
    assert not found(model)


def test_activation_scales_per_channel_or_computed_are_refused() -> None:
    for scale in ("c", "computed"):
        model = graph(
            [
                helper.make_node("Abs", ["t"], ["computed"]),
                helper.make_node(QUANTIZE, ["x", scale, "z"], ["q"], axis=1, name="quantize"),
                helper.make_node(DEQUANTIZE, ["q", scale, "z"], ["y"], axis=1),
            ],
            {"x": ["b", 8], "t": [8]},
            {"c": np.ones(8, np.float32), "z": np.zeros(8, np.int8)},
        )
        assert ("activation-scales", "refused") in found(model)


def test_operands_of_two_types_are_refused() -> None:
    model = product(axis=1)
    node = nodes_of(model, "MatMul")[0]
    weight = node.inputs[1]
    assert weight is not None
    weight.type = ir.TensorType(ir.DataType.FLOAT16)
    assert ("operand-types", "refused") in found(model)


def test_half_a_quantised_product_falls_back() -> None:
    model = product(axis=1)
    node = nodes_of(model, "MatMul")[0]
    node.replace_input_with(1, add_initializer(model.graph, "floats", np.ones((8, 4), np.float32)))
    assert ("half-quantised", "falls back") in found(model)


def test_half_accumulation_is_judged_by_the_weights_themselves() -> None:
    model = product(axis=1)
    for value in nodes_of(model, "MatMul")[0].inputs:
        assert value is not None
        value.type = ir.TensorType(ir.DataType.FLOAT16)
    assert ("half-accumulation", "overflows") not in found(model)  # 8 weights of 1
    stored = model.graph.initializers["w"]
    stored.const_value = ir.tensor(np.full((8, 4), 127, np.int8), name="w")
    assert ("half-accumulation", "overflows") in found(model)


def test_a_single_scale_is_part_of_the_product() -> None:
    """What half must hold is then the scaled sum: 128 · 8 · 127 · 0.1 · scale."""
    for scale, fits in ((5.0, True), (5.1, False)):
        model = product(scale=np.asarray(scale, np.float32))
        stored = model.graph.initializers["w"]
        stored.const_value = ir.tensor(np.full((8, 4), 127, np.int8), name="w")
        for value in nodes_of(model, "MatMul")[0].inputs:
            assert value is not None
            value.type = ir.TensorType(ir.DataType.FLOAT16)
        assert (("half-accumulation", "overflows") not in found(model)) == fits


def test_int4_weights_under_int8_activations() -> None:
    model = product(kind=TensorProto.INT4, axis=1)
    assert found(model, "rtx") == {("int4-with-activations", "slow"): 1}
    assert found(model, "ort") == {("int4-with-activations", "slow"): 1}
    assert found(model, "trt") == {("int4-with-activations", "refused"): 1}


def test_int4_weights_in_one_block_are_unpacked(exported: Export, tmp_path: Path) -> None:
    """Two blocks a row or more are not: what the builder does is in test_tensorrt_build."""
    assert found(half(exported, "w4a16", tmp_path)) == {("int4-in-one-block", "slow"): 8}
    assert found(half(exported, "w4a16-b32", tmp_path)) == {}
    spec = Spec(weights="int4-block", block=64, activations="float", attention="float")
    # Three of the five Linears have 64 inputs, and so has the head; fc2 has 256.
    assert found(ir.from_proto(transformer(spec))) == {("int4-in-one-block", "slow"): 4}


def test_require_names_the_node_the_rule_and_the_rest(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTarget) as caught:
        require(handmade(tmp_path, zero_point=3), "rtx")
    assert "rule zero-points" in caught.value.problem
    assert "more" in caught.value.problem
    assert caught.value.problem.startswith("rtx: ")
    assert caught.value.next_step


def test_findings_read_as_sentences() -> None:
    finding = Finding("zero-points", "blocks.0", "refused", "It is odd.", "Do not.")
    assert str(finding) == "blocks.0: It is odd. [refused; rule zero-points]"


def test_bad_arguments_are_refused(exported: Export, tmp_path: Path) -> None:
    path = exported("w8a8").path
    with pytest.raises(BadInput, match="Target 'tpu'"):
        check(path, "tpu")  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="'86'"):
        check(path, "rtx", compute_capabilities=("86",))
    with pytest.raises(BadInput, match="does not exist"):
        check(tmp_path / "absent.onnx", "rtx")
    (tmp_path / "broken.onnx").write_bytes(path.read_bytes()[:1000])
    with pytest.raises(BadInput, match="not a readable ONNX"):
        check(tmp_path / "broken.onnx", "rtx")
