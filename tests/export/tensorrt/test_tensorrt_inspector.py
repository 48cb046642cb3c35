"""The engine inspector's JSON, in the forms that public logs of TensorRT 10 show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mimiq.export.tensorrt.inspector import read_inspector
from mimiq.export.tensorrt.network import WantedProduct
from mimiq.export.tensorrt.proof import judge


def tensor(kind: str) -> dict[str, Any]:
    return {"Name": "t", "Location": "Device", "Dimensions": [8, 197, 192], "Format/Datatype": kind}


def layer(
    name: str, kind: str, inputs: list[str], output: str, nodes: list[str], tactic: str = ""
) -> dict[str, Any]:
    return {
        "Name": name,
        "LayerType": kind,
        "Inputs": [tensor(each) for each in inputs],
        "Outputs": [tensor(output)],
        "TacticName": tactic,
        "Metadata": "\x1e".join(f"[ONNX Layer: {node}]" for node in nodes),
    }


def want(node: str, left: str | None, right: str | None, constant: bool = True) -> WantedProduct:
    return WantedProduct(node, left, right, constant, 197, 64)


LAYERS = [
    layer(
        "Reformatting CopyNode for Input Tensor 0 to images",
        "Reformat",
        ["Row major linear FP32"],
        "Row major linear FP16 format",
        [],
    ),
    layer("patch_embed/Conv", "CaskConvolution", ["Half"], "Half", ["patch_embed/Conv"]),
    layer(
        "qkv/MatMul_myl0_2",
        "gemm",
        ["Int8"],
        "Half",
        ["qkv/MatMul", "qkv/DequantizeLinear"],
        "sm80_xmma_gemm_i8i8_i8i32_f16_tn_n_tilesize128x64x64_stage4_warpsize2x2x1",
    ),
    layer(
        "_gemm_mha_v2_myl0_3",
        "kgen",
        ["Int8", "Int8", "Int8"],
        "Int8",
        ["scores/MatMul", "Softmax", "heads/MatMul"],
        "_gemm_mha_v2_0x957a2fe283f77dcf35c142c1390a3e6a",
    ),
    layer(
        "__myl_CastMulFc_myl0_4",
        "kgen",
        ["Int8", "Half"],
        "Half",
        ["fc1/DQ", "fc1/MatMul"],
        "__myl",
    ),
    layer("__myl_ReshTran_myl0_5", "kgen", ["Half"], "Half", []),
    layer(
        "a/MatMul+b/MatMul_myl0_6",
        "gemm",
        ["Half"],
        "Half",
        ["a/MatMul", "b/MatMul"],
        "sm80_xmma_gemm_f16f16_f16f16_f16_nn_n_tilesize32x32x64",
    ),
]
WANTED = [
    want("qkv/MatMul", "int8", "int8"),
    want("scores/MatMul", "int8", "int8", constant=False),
    want("heads/MatMul", "int8", "int8", constant=False),
    want("fc1/MatMul", "int8", "int8"),
    want("a/MatMul", None, None),
    want("b/MatMul", None, "int4"),
]


def test_what_is_understood() -> None:
    summary = read_inspector(json.dumps({"Layers": LAYERS, "Bindings": []}), 1234, WANTED)
    assert summary.source == "inspector"
    assert summary.plan_bytes == 1234
    assert summary.linears() == {"int8": 1, "half": 3}
    assert summary.fused_attentions() == {"int8": 1}
    assert [product.compute for product in summary.of_role("convolution")] == ["half"]
    assert (summary.kernels, summary.reformats) == (7, 2)


def test_judgement() -> None:
    summary = read_inspector(json.dumps({"Layers": LAYERS}), 1, WANTED)
    proof = judge(summary, WANTED)
    assert [(f.node, f.got) for f in proof.fallbacks] == [("fc1/MatMul", "half")]
    assert proof.unproven == ("b/MatMul",)  # the stored type of a weight is not told


@pytest.mark.parametrize(
    "text", ["", "{", "[]", "null", '{"Layers": 3}', '{"Layers": ["only names"]}', "[" * 100_000]
)
def test_other_texts(text: str) -> None:
    assert read_inspector(text, 5, WANTED).source == "unreadable"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "Name",
                    "LayerType",
                    "Inputs",
                    "Outputs",
                    "TacticName",
                    "Metadata",
                    "Format/Datatype",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(JSON, max_size=4))
def test_nothing_raises(layers: list[Any]) -> None:
    judge(read_inspector(json.dumps({"Layers": layers}), 0, WANTED), WANTED)
