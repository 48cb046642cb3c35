"""Reading plans as text: what is understood, and that nothing can make the reader fail."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mimiq.errors import BadInput
from mimiq.export.tensorrt.myelin import bits_of, read_programs
from mimiq.export.tensorrt.network import WantedProduct
from mimiq.export.tensorrt.plan import only_moves, read_plan
from mimiq.export.tensorrt.proof import Fallback, Proof, judge, proof_table
from mimiq.export.tensorrt.summary import PlanSummary

# The form of TensorRT-RTX 1.7's text, shortened: an int8 Linear whose weight is stored as int4, a
# product inside a runtime fusion that widens its operands, a fused attention, and a mere cast.
HEADER = """header {
  version = 5
  hardware_forward_compatibility=1
  accelerators={sm80 sm89 }
}
descriptors {
  tensor={ dims={ "proxy.1" 64 } name="x" offset=0 region="devmem" type=int8 }
  tensor={ const_payload_size=2048 dims={ 64 64 } name="w4" offset=1 region=consts type=int4 }
  tensor={ const_payload_size=2048 dims={ 64 64 } name="twin" offset=1 region=consts type=int4 }
  tensor={ dims={ 64 64 } name="w8" offset=0 region="devmem" type=int8 }
  tensor={ dims={ "proxy.1" 64 } name="y" offset=0 region="devmem" type=float }
  tensor={ const_payload_size=4096 dims={ 64 64 } name="k8" offset=2 region=consts type=int8 }
  tensor={ dims={ "proxy.1" 64 } name="z" offset=0 region="devmem" type=half }
  tensor={ dims={ "b.1" 64 32 } name="q" offset=0 region="devmem" type=half }
  sub_tensor={ base="x" const_offset=0 dims={ "proxy.1" 64 } name="x^deref" offset=0 type=int8 }
}
main {
 label bb1:
  shape_call={ name="shapes" stream=0  layers="" subg_id=0 }
  function={ name=__myl_Cast fqn=f args={ "w4" "w8" } input_args={ "w4" } output_args={ "w8" } \
layers="[ONNX Layer: a/MatMul]" }
  fully_connected={ name="a/MatMul" output={"y" } input={"x^deref" "w8" "one" "zero" } \
alpha=3F800000 layers="[ONNX Layer: a/MatMul]\x1f[ONNX Layer: a/DequantizeLinear]" }
  function={ name=__myl_ReshTran fqn=g input_args={ "y" } output_args={ "y" } layers="" }
  runtime_fusion={ name=__myl_CastMulCastFc input_args={ "x" "k8" } output_args={ "z" } \
layers="[ONNX Layer: b/DequantizeLinear]\x1f[ONNX Layer: b/MatMul]" backbone=gemm }
  function={ name=_gemm_mha_v2 input_args={ "q" "q" "q" "n" } output_args={ "q" } \
layers="[ONNX Layer: s/MatMul]\x1f[ONNX Layer: Softmax]\x1f[ONNX Layer: h/MatMul]" }
}
"""
BODY = """header {
  accelerators={*}
}
descriptors {
  tensor={ dims={ "proxy.1" 64 } name="x" offset=0 region="" type=int8 }
  tensor={ dims={ "proxy.1" 64 } name="xf" offset=0 region="" type=float }
  tensor={ dims={ 64 64 } name="kf" offset=0 region="" type=float }
  tensor={ dims={ "proxy.1" 64 } name="z" offset=0 region="" type=half }
}
main {
  cast={ name="c" output={"xf" } input={"x" } stream=0  layers="[ONNX Layer: b/DequantizeLinear]" }
  fully_connected={ name="b/MatMul" output={"z" } input={"xf" "kf" } \
layers="[ONNX Layer: b/MatMul]" }
}
"""
PLAN = b"vtrt\x00\x01" + HEADER.encode() + b"\x00\xff\x10" + BODY.encode() + b"\x00\x00"


def want(node: str, left: str | None, right: str | None, constant: bool = True) -> WantedProduct:
    return WantedProduct(node, left, right, constant, 64, 32)


def test_what_is_understood() -> None:
    summary = read_plan(PLAN)
    assert summary.source == "plan"
    assert summary.targets == ("sm80", "sm89")
    assert summary.forward_compatible
    assert summary.linears() == {"int4→int8": 1, "int8→float": 1}
    assert summary.fused_attentions() == {"half": 1}
    assert summary.matmuls() == {}
    assert (summary.kernels, summary.reformats, summary.unpacks) == (5, 1, 1)
    assert dict(summary.weight_bytes) == {"int4": 2048, "int8": 4096}  # twins are one constant
    first, second = summary.products
    assert (first.nodes, first.output, first.unpacked) == (("a/MatMul",), "float", True)
    assert (second.nodes, second.output, second.unpacked) == (("b/MatMul",), "half", False)


def test_files(tmp_path: Path) -> None:
    (tmp_path / "engine.plan").write_bytes(PLAN)
    assert read_plan(tmp_path / "engine.plan") == read_plan(PLAN)
    with pytest.raises(BadInput, match="cannot be read"):
        read_plan(tmp_path / "none.plan")


def test_judgement() -> None:
    wanted = [
        want("a/MatMul", "int8", "int4"),
        want("b/MatMul", "int8", "int8"),
        want("s/MatMul", "int8", "int8", constant=False),
        want("h/MatMul", None, None, constant=False),
        want("gone/MatMul", "int8", "int8"),
        want("float/MatMul", None, None),
    ]
    proof = judge(read_plan(PLAN), wanted)
    assert [(f.node, f.wanted, f.got) for f in proof.fallbacks] == [
        ("b/MatMul", "int8", "int8→float"),
        ("s/MatMul", "int8", "half"),
    ]
    assert proof.unproven == ("gone/MatMul",)
    assert Proof.from_json(json.loads(json.dumps(proof.to_json()))) == proof


def test_weights_alone() -> None:
    """Stored narrow is enough; multiplied wide is what was asked for."""
    proof = judge(read_plan(PLAN), [want("b/MatMul", None, "int8"), want("a/MatMul", None, "int4")])
    assert proof.fallbacks == proof.unproven == ()


def test_several_gpus_promise_the_widest_type() -> None:
    """A second program of the same network in half decides what is told."""
    half = HEADER.replace("type=int8", "type=half").replace("sm80 sm89", "sm75").encode()
    summary = read_plan(PLAN + half)
    assert summary.linears()["int4→half"] == 1
    assert summary.targets == ("sm80", "sm89", "sm75")


def test_unknown_types_are_unproven() -> None:
    text = PLAN.replace(b'name="x" offset=0 region="devmem" type=int8', b'name="?"')
    text = text.replace(b"sub_tensor", b"other_thing")
    summary = read_plan(text)
    assert summary.products[0].compute == "unknown"
    assert judge(summary, [want("a/MatMul", "int8", "int4")]).unproven == ("a/MatMul",)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"header {\n", b"header {\n" * 1000])
def test_unreadable(content: bytes) -> None:
    summary = read_plan(content)
    assert summary == PlanSummary(source="unreadable", plan_bytes=len(content))
    proof = judge(summary, [want("a/MatMul", "int8", "int8")])
    assert proof.unproven == ("a/MatMul",)
    assert "unknown" in rendered(proof)


def rendered(proof: Proof) -> str:
    from rich.console import Console

    console = Console(width=100, record=True, file=None, quiet=False)
    with console.capture() as capture:
        console.print(proof_table(proof))
    return capture.get()


def test_a_table_of_names_that_look_like_markup() -> None:
    proof = judge(read_plan(b""), [want("[/bold]/MatMul[0]", "int8", "int8")])
    assert "[/bold]/MatMul[0]" in rendered(proof)


def test_table() -> None:
    wanted = [want("a/MatMul", "int8", "int4"), want("b/MatMul", "int8", "int8")]
    text = rendered(judge(read_plan(PLAN), wanted))
    for words in ("int4→int8", "1 × half", "b/MatMul", "1 unpack weights", "sm80, sm89 and later"):
        assert words in text


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_truncated_and_damaged_plans(data: st.DataObject) -> None:
    content = bytearray(PLAN[: data.draw(st.integers(0, len(PLAN)))])
    for position in data.draw(st.lists(st.integers(0, max(len(content) - 1, 0)), max_size=30)):
        if content:
            content[position] = data.draw(st.integers(0, 255))
    summary = read_plan(bytes(content))
    judge(summary, [want("a/MatMul", "int8", "int8")])
    assert PlanSummary.from_json(json.loads(json.dumps(summary.to_json()))) == summary


FRAGMENTS = [
    "header {\n", "descriptors {\n", "main {\n", "}\n", "\n", "  ", "tensor={ ", "sub_tensor={ ",
    "name=", '"', '"a" ', "dims={ ", "type=int8 ", "const_payload_size=", "9" * 40, "*} ", " }",
    "accelerators={", "fully_connected={ name=a ", "function={ name=__myl_ReshCast ", "input={",
    "runtime_fusion={ name=Fc ", "output={", "output_args={", 'base="a" ', "[ONNX Layer: ", "]",
    "\x1f", 'layers="', "alpha=ZZZZZZZZ", "alpha=3F800000", "region=", "offset=", "_gemm_mha_v2",
]  # fmt: skip


@settings(max_examples=300, deadline=None)
@given(st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4), max_size=120))
def test_made_up_plans(parts: list[str]) -> None:
    content = "".join(parts).encode("utf-8", errors="replace")
    for text in (content, PLAN + content, PLAN.replace(b"main {\n", b"main {\n" + content)):
        judge(read_plan(text), [want("a/MatMul", "int8", "int8")])


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=5000))
def test_garbage(content: bytes) -> None:
    assert read_plan(content).plan_bytes == len(content)


def test_views_in_a_circle() -> None:
    circle = PLAN.replace(b'base="x"', b'base="x^deref"').replace(
        b'{ "w4" } output', b'{ "w8" } output'
    )
    assert read_plan(circle).linears()


def test_large_files_are_read_fast() -> None:
    """What is not text is skipped over, not parsed: 100 MB of weights are no work."""
    content = PLAN + b"\x7fheader\n tensor={ " * (100_000_000 // 18) + PLAN
    started = time.perf_counter()
    assert read_programs(content)
    assert time.perf_counter() - started < 5


def test_names_of_generated_kernels() -> None:
    assert only_moves("__myl_ReshTran")
    assert only_moves("__myl_Cast")
    assert not only_moves("__myl_CastMul")
    assert not only_moves("__myl_ReshTranEtc")
    assert not only_moves("_gemm_mha_v2")


def test_widths() -> None:
    widths = [bits_of(kind) for kind in ("int4", "fp8_e4m3", "fp4e2m1", "half", "float", "new")]
    assert widths == [4, 8, 4, 16, 32, 32]


def test_nodes_with_the_same_story_share_a_line() -> None:
    proof = judge(read_plan(PLAN), [])
    unfused = (*(f"{name}/MatMul (of 625 tokens)" for name in "abc"), "d/MatMul (heads of 80)")
    fallen = tuple(Fallback(node, "int8", "half", "lost") for node in ("e", "f"))
    text = rendered(replace(proof, unfused=unfused, fallbacks=fallen))
    assert "3, a/MatMul … c/MatMul (of 625 tokens)" in text
    assert "d/MatMul (heads of 80)" in text
    assert "e and f: wanted int8, runs as half (lost)" in text
