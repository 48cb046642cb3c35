"""Engines from small graphs written by hand, built by the real library on any host."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from tensorrt_graphs import Spec, transformer

from mimiq.errors import BadInput, BuildFailed, EnvironmentLacks, MimiqError, UnsupportedTarget
from mimiq.export.tensorrt.build import BuildOptions, BuiltEngine, build_engine
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import judge
from mimiq.runtime.tensorrt.products import RTX, TRT

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)

FLOAT = Spec(weights="float", activations="float", attention="float")
FP8 = Spec(weights="fp8", activations="fp8", attention="fp8")
WEIGHT_ONLY = Spec(weights="int4-block", activations="float", attention="float")


def write(folder: Path, graph: onnx.ModelProto | bytes) -> Path:
    path = folder / "graph.onnx"
    path.write_bytes(graph if isinstance(graph, bytes) else graph.SerializeToString())
    return path


def build(folder: Path, spec: Spec, **options: Any) -> BuiltEngine:
    return build_engine(write(folder, transformer(spec)), RTX, BuildOptions(**options))


def refusal(folder: Path, graph: onnx.ModelProto | bytes, **options: Any) -> MimiqError:
    with pytest.raises(MimiqError) as caught:
        build_engine(write(folder, graph), RTX, BuildOptions(**options))
    assert caught.value.next_step
    return caught.value


# What is built --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "linears", "attentions"),
    [
        (FLOAT, {"half": 5}, {"half": 1}),
        (Spec(), {"int8": 5}, {"int8": 1}),
        (Spec(half=False), {"int8": 5}, {"int8": 1}),
        (Spec(attention="float"), {"int8": 5}, {"half": 1}),
        (Spec(fused_qkv=False), {"int8": 7}, {"int8": 1}),
        (Spec(weights="int4"), {"int4→int8": 5}, {"int8": 1}),
        (WEIGHT_ONLY, {"int4→half": 5}, {"half": 1}),
        (Spec(activations="float", attention="float"), {"int8→half": 5}, {"half": 1}),
    ],
    ids=["fp16", "int8", "int8-fp32", "int8-fp16-attention", "q-k-v", "w4a8", "w4", "w8"],
)
def test_precisions(
    tmp_path: Path, spec: Spec, linears: dict[str, int], attentions: dict[str, int]
) -> None:
    built = build(tmp_path, spec)
    summary = read_plan(built.plan)
    assert summary.linears() == linears
    assert summary.fused_attentions() == attentions
    assert not summary.matmuls()
    proof = judge(summary, built.wanted)
    assert proof.fallbacks == proof.unproven == proof.unfused == proof.overflow == ()
    assert built.seconds > 0
    assert built.batches == (1, 8, 128)


@pytest.mark.parametrize("capability", ["8.9", "12.0"])
def test_fp8(tmp_path: Path, capability: str) -> None:
    built = build(tmp_path, FP8, compute_capabilities=(capability,))
    summary = read_plan(built.plan)
    assert summary.linears() == {"fp8": 5}
    assert summary.fused_attentions() == {"fp8": 1}
    assert judge(summary, built.wanted).fallbacks == ()


def test_per_channel_int4_is_unpacked_at_every_inference(tmp_path: Path) -> None:
    """Its product is int8, but a kernel of its own widens each weight before; blocks need none.

    Unless a row is one block: of the five Linears only fc2 has more than 64 inputs.
    """
    assert read_plan(build(tmp_path, Spec(weights="int4")).plan).unpacks == 5
    assert read_plan(build(tmp_path, WEIGHT_ONLY).plan).unpacks == 0
    assert read_plan(build(tmp_path, replace(WEIGHT_ONLY, block=64)).plan).unpacks == 4
    assert read_plan(build(tmp_path, Spec()).plan).unpacks == 0


def test_weights_shrink(tmp_path: Path) -> None:
    half, int8, int4 = (
        dict(read_plan(build(tmp_path, spec).plan).weight_bytes)
        for spec in (FLOAT, Spec(), Spec(weights="int4"))
    )
    # qkv, proj, fc1, fc2 of width 64, and the head: 12 · 64² + 64 · 10 weights.
    assert int8["int8"] == 12 * 64 * 64 + 640
    assert int4["int4"] == int8["int8"] // 2
    assert half["half"] > 2 * int8["int8"]


def test_one_engine_for_all_gpus(tmp_path: Path) -> None:
    summary = read_plan(build(tmp_path, Spec()).plan)
    assert summary.targets == ("sm80",)
    assert summary.forward_compatible
    summary = read_plan(build(tmp_path, Spec(), compute_capabilities=("8.6", "12.0")).plan)
    assert summary.targets == ("sm86", "sm120")
    assert not summary.forward_compatible


def test_batches(tmp_path: Path) -> None:
    assert build(tmp_path, Spec(), batches=(2, 4, 16)).batches == (2, 4, 16)
    fixed = transformer(Spec())
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    assert build_engine(write(tmp_path, fixed), RTX, BuildOptions()).batches == (4, 4, 4)


def test_a_single_row_is_no_product_but_counts(tmp_path: Path) -> None:
    """At a fixed batch of 1 the head becomes generated code, a sum of products."""
    built = build(tmp_path, FLOAT, batches=(1, 1, 1))
    summary = read_plan(built.plan)
    assert summary.linears() == {"half": 5}
    assert judge(summary, built.wanted).unproven == ()


def test_external_weights(tmp_path: Path) -> None:
    path = tmp_path / "graph.onnx"
    onnx.save(
        transformer(FLOAT),
        path,
        save_as_external_data=True,
        location="graph.data",
        size_threshold=0,
    )
    assert read_plan(build_engine(path, RTX, BuildOptions()).plan).linears() == {"half": 5}


# What is lost ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "spec",
    [
        Spec(split="slice"),
        Spec(split="slice", island=False, scores="q"),
        Spec(attention="float", island=False, scores="q"),
        Spec(attention="float", half=False, scores="product"),
    ],
)
def test_the_qkv_trap(tmp_path: Path, spec: Spec) -> None:
    """Slices behind qkv are moved into its weight; the product runs in floating point."""
    built = build(tmp_path, spec)
    proof = judge(read_plan(built.plan), built.wanted)
    assert [fallback.node for fallback in proof.fallbacks] == ["blocks.0/attn/qkv/MatMul"]
    assert proof.fallbacks[0].wanted == "int8"
    assert proof.fallbacks[0].got.startswith("int8→")
    assert "moved above it" in proof.fallbacks[0].reason


def test_scales_along_k(tmp_path: Path) -> None:
    built = build(tmp_path, Spec(scales_along_k=True))
    proof = judge(read_plan(built.plan), built.wanted)
    assert len(proof.fallbacks) == 5
    assert "per output channel" in proof.fallbacks[1].reason


def test_int8_sums_in_half(tmp_path: Path) -> None:
    """Without fp32 around it, an int8 product stores its raw sums as half: 65504 is the end."""
    built = build(tmp_path, Spec(island=False))
    proof = judge(read_plan(built.plan), built.wanted)
    assert proof.fallbacks == ()
    assert len(proof.overflow) == 5
    built = build(tmp_path, Spec(island=True))
    assert judge(read_plan(built.plan), built.wanted).overflow == ()


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (Spec(image=100), "625 tokens"),
        (Spec(head_dim=80), "heads of 80"),
        (Spec(mixed=True), "heads are mixed"),
    ],
)
def test_attention_that_does_not_fuse(tmp_path: Path, spec: Spec, reason: str) -> None:
    built = build(tmp_path, spec)
    summary = read_plan(built.plan)
    proof = judge(summary, built.wanted)
    assert not summary.fused_attentions()
    assert summary.matmuls() == {"int8": 2}
    assert reason in proof.unfused[0]


# What is refused ------------------------------------------------------------------------------


def test_zero_points(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec(zero_point=3)))
    assert isinstance(error, UnsupportedTarget)
    assert "'blocks.0/attn/qkv/QuantizeLinear'" in error.problem
    assert "Non-zero zero point" in error.problem


def test_uint8_activations(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec(activations="uint8")))
    assert isinstance(error, UnsupportedTarget)
    assert "'blocks.0/attn/qkv/QuantizeLinear'" in error.problem


def test_int4_blocks_with_int8_activations(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec(weights="int4-block")))
    assert isinstance(error, UnsupportedTarget)
    assert "'blocks.0/attn/qkv/DequantizeLinear_1'" in error.problem
    assert "`weight_only=True`" in error.next_step


def test_fp8_before_ada(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(FP8), compute_capabilities=("8.0",))
    assert isinstance(error, UnsupportedTarget)
    assert "sm80" in error.problem
    assert "8.9" in error.next_step


def test_fp32_products_on_turing(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec()), compute_capabilities=("7.5",))
    assert isinstance(error, UnsupportedTarget)
    assert "'blocks.0/attn/qkv/MatMul'" in error.problem


def test_scales_of_another_type(tmp_path: Path) -> None:
    """A weight scale in fp32 where everything around it is fp16."""
    graph = transformer(Spec(island=False))
    nodes = {node.name: node for node in graph.graph.node}
    name = nodes["blocks.0/attn/qkv/DequantizeLinear_1"].input[1]
    scale = next(tensor for tensor in graph.graph.initializer if tensor.name == name)
    values = onnx.numpy_helper.to_array(scale).astype("float32")
    scale.CopyFrom(onnx.numpy_helper.from_array(values, name))
    error = refusal(tmp_path, graph)
    assert "'blocks.0/attn/qkv/MatMul'" in error.problem
    assert "input types" in error.problem


def test_unknown_operators(tmp_path: Path) -> None:
    graph = transformer(Spec())
    graph.graph.node[3].op_type = "NoSuchOperator"
    error = refusal(tmp_path, graph)
    assert "NoSuchOperator" in error.problem


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_truncated_graphs(tmp_path: Path, kept: float) -> None:
    content = transformer(Spec()).SerializeToString()
    error = refusal(tmp_path, content[: int(kept * len(content))])
    assert isinstance(error, BadInput)
    assert "graph.onnx" in error.problem


def test_files_that_are_no_graphs(tmp_path: Path) -> None:
    assert isinstance(refusal(tmp_path, b"hello" * 100), BadInput)
    with pytest.raises(BadInput, match="cannot be read"):
        build_engine(tmp_path / "none.onnx", RTX, BuildOptions())


def test_free_image_sizes(tmp_path: Path) -> None:
    graph = transformer(Spec())
    graph.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    assert "free size" in refusal(tmp_path, graph).problem


def test_unknown_compute_capabilities(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec()), compute_capabilities=("9.0",))
    assert isinstance(error, BadInput)
    assert "'9.0'" in error.problem
    assert "8.9" in error.next_step


def test_options_of_the_other_product(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec()), hardware_compatibility="ampere-plus")
    assert isinstance(error, BadInput)


@pytest.mark.parametrize(
    "options",
    [
        {"batches": (0, 1, 2)},
        {"batches": (1, 9, 8)},
        {"batches": (2, 1, 8)},
        {"workspace_bytes": 0},
    ],
)
def test_impossible_options(options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        BuildOptions(**options)


def test_nothing_reaches_the_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Not even what the compiler prints past the logger."""
    refusal(tmp_path, transformer(Spec(weights="int4-block")))
    refusal(tmp_path, transformer(Spec(zero_point=3)))
    build(tmp_path, Spec())
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""


def test_a_workspace_too_small(tmp_path: Path) -> None:
    error = refusal(tmp_path, transformer(Spec()), workspace_bytes=1)
    assert isinstance(error, BuildFailed)
    assert "workspace" in error.problem


def test_products_that_are_absent(tmp_path: Path) -> None:
    if TRT.is_installed:
        pytest.skip("TensorRT is installed here")
    with pytest.raises(EnvironmentLacks, match="TensorRT is not installed") as caught:
        build_engine(write(tmp_path, transformer(Spec())), TRT, BuildOptions())
    assert "mimiq-vit[trt]" in caught.value.next_step


def test_damaged_engines_are_read_without_a_crash(tmp_path: Path) -> None:
    plan = build(tmp_path, Spec(weights="int4")).plan
    random = np.random.default_rng(0)
    for end in random.integers(0, len(plan), 20):
        assert read_plan(plan[:end]).plan_bytes == end
    text = plan.index(b"descriptors {")
    for _ in range(20):
        damaged = bytearray(plan)
        for position in text + random.integers(0, 60_000, 200):
            damaged[position] = random.integers(0, 256)
        read_plan(bytes(damaged))
