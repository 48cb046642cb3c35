"""Small graphs written by hand, and ONNX Runtime to run them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from mimiq.export.graph import DEQUANTIZE, QUANTIZE


def graph(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Sequence[int | str]],
    constants: Mapping[str, Any] = {},
    *,
    outputs: Sequence[str] = ("y",),
    opset: int = 21,
) -> ir.Model:
    """An onnx-ir model with float inputs; types of everything standard are inferred."""
    proto = helper.make_model(
        helper.make_graph(
            list(nodes),
            "graph",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_value_info(n, onnx.TypeProto()) for n in outputs],
            [
                v if isinstance(v, TensorProto) else numpy_helper.from_array(np.asarray(v), n)
                for n, v in constants.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", opset), helper.make_opsetid("mimiq", 1)],
        ir_version=10,
    )
    inferred = onnx.shape_inference.infer_shapes(proto)
    model = ir.from_proto(inferred)
    for node in model.graph:  # the custom operator keeps type and shape
        source = node.inputs[0]
        if node.domain == "mimiq" and source is not None:
            node.outputs[0].type, node.outputs[0].shape = source.type, source.shape
    for node in model.graph:
        for value in node.outputs:
            if value.dtype is None:
                value.type = ir.TensorType(ir.DataType.FLOAT)
    return model


def require_valid(path: Path) -> onnx.ModelProto:
    """Hold a file to ONNX in full, and return it.

    The checker's full check, and strict inference of all types and shapes: with those that the file
    states, which must not contradict it; and from nothing, which must find each of them again, but
    for what follows an operator of another domain.
    """
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    strict = {"check_type": True, "strict_mode": True, "data_prop": True}
    standard = not {node.domain for node in model.graph.node} - {"", "ai.onnx"}
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    for given, complete in ((model, True), (bare, standard)):
        inferred = onnx.shape_inference.infer_shapes(given, **strict).graph
        known = {v.name for v in (*inferred.value_info, *inferred.output) if _ranked(v)}
        lacking = {name for node in inferred.node for name in node.output if name} - known
        assert not (lacking and complete), sorted(lacking)
    return model


def _ranked(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.tensor_type
    return bool(kind.elem_type) and kind.HasField("shape")


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def qdq(x: str, name: str) -> list[onnx.NodeProto]:
    """A pair of scale ``name_s`` and zero point ``zero``."""
    return [
        helper.make_node(QUANTIZE, [x, f"{name}_s", "zero"], [f"{name}_i"], name=f"{name}_q"),
        helper.make_node(DEQUANTIZE, [f"{name}_i", f"{name}_s", "zero"], [name], name=name),
    ]


def moved_and_quantised() -> ir.Model:
    """x (4, 6), halved, transposed, reshaped, and quantised at last."""
    nodes = [
        helper.make_node("Mul", ["x", "half"], ["scaled"], name="mul"),
        helper.make_node("Transpose", ["scaled"], ["t"], perm=[1, 0], name="t"),
        helper.make_node("Reshape", ["t", "shape"], ["r"], name="r"),
        *qdq("r", "a"),
        helper.make_node("Relu", ["a"], ["y"], name="end"),
    ]
    constants = {"half": np.float32(0.5), "a_s": np.float32(0.25), "shape": np.array([2, -1])}
    return graph(nodes, {"x": [4, 6]}, constants | {"zero": np.int8(0)})


def fake_quantize(
    x: str,
    scale: str,
    y: str,
    qmin: int,
    qmax: int,
    axis: int = -1,
    block_size: int = 0,
    ratio: int = 1,
    coarse: int = 0,
    below: int = 0,
) -> onnx.NodeProto:
    return helper.make_node(
        "FakeQuantize",
        [x, scale],
        [y],
        domain="mimiq",
        name=y,
        qmin=qmin,
        qmax=qmax,
        axis=axis,
        block_size=block_size,
        ratio=ratio,
        coarse=coarse,
        below=below,
    )


def operators(model: ir.Model) -> list[str]:
    return [node.op_type for node in model.graph]


def run(model: ir.Model, **inputs: np.ndarray) -> list[np.ndarray]:
    """Outputs under ONNX Runtime without optimisation."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    results: list[np.ndarray] = session.run(None, inputs)
    return results


def check(model: ir.Model) -> None:
    """ONNX's own checker, types and shapes included."""
    onnx.checker.check_model(onnx.shape_inference.infer_shapes(ir.to_proto(model)))
