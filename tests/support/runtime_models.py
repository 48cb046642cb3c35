"""Small ONNX classifiers and manifests, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mimiq.config.precision import int8
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.preprocessing import Preprocessing

SIZE, CLASSES = 8, 10

MakeModel = Callable[..., Path]
MakeBundle = Callable[..., Bundle]


def write_linear_classifier(
    path: Path,
    *,
    quantized: bool = False,
    batch: int | str = "batch",
    scale: float = 1.0,
    seed: int = 0,
    operator: str = "Add",
    hidden: int = 0,
) -> Path:
    """logits = flatten(images) @ weight + bias, optionally as int8 Q/DQ, or behind more layers."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    generator = np.random.default_rng(seed)
    width = 3 * SIZE * SIZE
    weight = (scale * generator.standard_normal((width, CLASSES))).astype(np.float32)
    bias = generator.standard_normal(CLASSES).astype(np.float32)
    initializers = [numpy_helper.from_array(bias, "bias")]
    nodes = [helper.make_node("Flatten", ["images"], ["flat"])]
    if quantized:
        step = np.abs(weight).max(axis=0) / 127
        integers = np.round(weight / step).astype(np.int8)
        for value, key in (
            (integers, "w"),
            (step.astype(np.float32), "w_scale"),
            (np.float32(4 / 127), "x_scale"),
            (np.int8(0), "zero"),
        ):
            initializers.append(numpy_helper.from_array(np.asarray(value), key))
        nodes += [
            helper.make_node("QuantizeLinear", ["flat", "x_scale", "zero"], ["q"]),
            helper.make_node("DequantizeLinear", ["q", "x_scale", "zero"], ["x"]),
            helper.make_node("DequantizeLinear", ["w", "w_scale"], ["weight"], axis=1),
        ]
    else:
        initializers.append(numpy_helper.from_array(weight, "weight"))
        nodes.append(helper.make_node("Identity", ["flat"], ["x"]))
    last = "x"
    for layer in range(hidden):  # work enough to be timed
        square = (generator.standard_normal((width, width)) / width).astype(np.float32)
        initializers.append(numpy_helper.from_array(square, f"square{layer}"))
        nodes.append(helper.make_node("MatMul", [last, f"square{layer}"], [f"hidden{layer}"]))
        last = f"hidden{layer}"
    nodes += [
        helper.make_node("MatMul", [last, "weight"], ["product"]),
        helper.make_node(operator, ["product", "bias"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [batch, 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, [batch, CLASSES])],
        initializers,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


def manifest_entries(**model: Any) -> dict[str, Any]:
    return {
        "model": {"name": "linear", "num_classes": CLASSES, "untrained": False, **model},
        "precision": int8().to_json(),
        "preprocessing": Preprocessing(image_size=SIZE, crop_pct=1.0).to_json(),
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, SIZE, SIZE]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", CLASSES]}],
        "calibration": {"kind": "noise"},
        "recipes": {},
        "seed": 0,
    }
