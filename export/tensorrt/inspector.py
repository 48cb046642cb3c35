"""An engine's precision as its runtime tells it: the engine inspector's JSON, on a GPU host."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from mimiq.export.tensorrt.network import WantedProduct
from mimiq.export.tensorrt.plan import only_moves
from mimiq.export.tensorrt.summary import (
    LOW_PRECISION,
    UNKNOWN,
    FusedAttention,
    MatrixProduct,
    PlanSummary,
    Role,
)

# What "Format/Datatype" may say: "Half", "Int8", "Row major linear FP16 format", "FP8E4M3" …
_TYPES = (
    ("int4", ("int4",)),
    ("int8", ("int8",)),
    ("fp4", ("fp4",)),
    ("fp8", ("fp8", "e4m3")),
    ("bfloat16", ("bf16", "bfloat16")),
    ("half", ("half", "fp16", "float16")),
    ("float", ("float", "fp32", "tf32")),
)
# Operand types in the names of kernels: sm80_xmma_gemm_i8i8_i8i32_f32_…, sm89_…_e4m3e4m3_….
_TACTIC = re.compile(r"gemm_(i8|s8|e4m3|bf16|f16|f32|tf32)")
_TACTIC_TYPES = {
    "i8": "int8",
    "s8": "int8",
    "e4m3": "fp8",
    "bf16": "bfloat16",
    "f16": "half",
    "f32": "float",
    "tf32": "float",
}
_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\[]|$)")


def read_inspector(text: str, plan_bytes: int, wanted: Iterable[WantedProduct] = ()) -> PlanSummary:
    """A summary from ``EngineInspector.get_engine_information`` in JSON.

    The inspector names constants nowhere, so a weight's stored type is mostly unknown; which
    products are Linears is taken from ``wanted``. Anything else than such JSON gives
    ``source="unreadable"``; nothing raises.

    Args:
        text: the inspector's answer for an engine built with detailed verbosity.
        plan_bytes: size of the engine.
        wanted: what the graph asked for, see :mod:`mimiq.export.tensorrt.network`.
    """
    layers = _layers(text)
    if not layers:
        return PlanSummary(source="unreadable", plan_bytes=plan_bytes)
    constant = {want.node: want.constant for want in wanted}
    attentions, products, reformats = [], [], 0
    for layer in layers:
        name, kind = str(layer.get("Name", "")), str(layer.get("LayerType", "")).lower()
        base = re.sub(r"_myl\d+_\d+$", "", name)
        if "mha" in base.lower():
            types = _types(layer, "Inputs")
            attentions.append(FusedAttention(_nodes(layer), types[0] if types else UNKNOWN))
        elif (role := _role(base, kind, str(layer.get("TacticName", "")))) is not None:
            products.append(_product(layer, base, role, constant))
        elif "reformat" in kind or only_moves(base):
            reformats += 1
    return PlanSummary(
        source="inspector",
        plan_bytes=plan_bytes,
        kernels=len(layers),
        reformats=reformats,
        products=tuple(products),
        attentions=tuple(attentions),
    )


def _layers(text: str) -> list[dict[str, Any]]:
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        return []
    layers = data.get("Layers") if isinstance(data, dict) else None
    return (
        [layer for layer in layers if isinstance(layer, dict)] if isinstance(layers, list) else []
    )


def _role(base: str, kind: str, tactic: str) -> Role | None:
    if "conv" in kind or "correlation" in kind:
        return "convolution"
    is_product = any(word in kind for word in ("gemm", "matrixmultiply", "fully_connected"))
    return "matmul" if is_product or _TACTIC.search(tactic) or "Fc" in _steps(base) else None


def _product(
    layer: dict[str, Any], base: str, role: Role, constant: dict[str, bool]
) -> MatrixProduct:
    inputs, outputs = _types(layer, "Inputs"), _types(layer, "Outputs")
    output = outputs[0] if outputs else UNKNOWN
    tactic = _TACTIC.search(str(layer.get("TacticName", "")))
    compute = _TACTIC_TYPES[tactic[1]] if tactic else inputs[0] if inputs else UNKNOWN
    steps = _steps(base)
    low = next((kind for kind in inputs if kind in LOW_PRECISION), None)
    if "Fc" in steps and "Cast" in steps[: steps.index("Fc")] and low:
        # Generated code that widens its operands and multiplies then.
        wide = [kind for kind in (*inputs, output) if kind not in (*LOW_PRECISION, UNKNOWN)]
        compute = wide[0] if wide else UNKNOWN
    names = tuple(base.split("+"))
    all_nodes = _nodes(layer)
    nodes = tuple(n for n in names if n in all_nodes) or tuple(
        n for n in all_nodes if n in constant
    )
    if role == "matmul" and any(constant.get(node, False) for node in nodes):
        role = "linear"
    return MatrixProduct(
        nodes=nodes or all_nodes,
        role=role,
        compute=compute,
        weights=UNKNOWN if role != "matmul" else None,
        output=output,
        unscaled_half=False,
    )


def _steps(base: str) -> list[str]:
    """``__myl_CastMulFc`` → [Cast, Mul, Fc]."""
    return re.findall(r"[A-Z][a-z]+", base[6:]) if base.startswith("__myl_") else []


def _nodes(layer: dict[str, Any]) -> tuple[str, ...]:
    return tuple(_LAYER.findall(str(layer.get("Metadata", ""))))


def _types(layer: dict[str, Any], side: str) -> list[str]:
    tensors = layer.get(side)
    if not isinstance(tensors, list):
        return []
    return [_type(str(t.get("Format/Datatype", ""))) for t in tensors if isinstance(t, dict)]


def _type(text: str) -> str:
    lowered = text.lower()
    for name, words in _TYPES:
        if any(word in lowered for word in words):
            return name
    return UNKNOWN
