"""Small vision transformers as ONNX Q/DQ graphs, written by hand, so that a rule of TensorRT can be
tried without a trained network, torch or the exporter.

Weights are random; every scale is a plain constant. One :class:`Spec` is one graph.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Spec:
    """A pre-norm transformer over 4×4 patches of a square image.

    Attributes:
        weights: ``float``, ``int8``, ``int4`` (per output channel), ``fp8`` or ``int4-block``.
        activations: ``float``, ``int8``, ``uint8`` or ``fp8``, for the Linears' inputs.
        attention: ``float``, ``int8`` or ``fp8``: q, k, v and the softmax output.
        half: fp16 tensors between the layers.
        island: Linears in fp32 between casts, when ``half``.
        scores: where the softmax scale goes: ``root`` (√ on q and k), ``q`` (all on q) or
            ``product`` (on q·kᵀ).
        split: how q, k and v leave the fused product: ``gather`` (unbind) or ``slice`` (last axis).
        fused_qkv: one product for q, k and v, or three.
        zero_point: of the activations.
        scales_along_k: int8 weights with one scale per input channel.
        mixed: heads are mixed with each other before and behind the softmax.
    """

    depth: int = 1
    heads: int = 2
    head_dim: int = 32
    image: int = 32
    classes: int = 10
    weights: str = "int8"
    activations: str = "int8"
    attention: str = "int8"
    half: bool = True
    island: bool = True
    scores: str = "root"
    split: str = "gather"
    fused_qkv: bool = True
    block: int = 32
    zero_point: int = 0
    scales_along_k: bool = False
    mixed: bool = False


_CARRIER = {
    "int8": TensorProto.INT8,
    "uint8": TensorProto.UINT8,
    "int4": TensorProto.INT4,
    "int4-block": TensorProto.INT4,
    "fp8": TensorProto.FLOAT8E4M3FN,
}
_LARGEST = {"int8": 127.0, "uint8": 255.0, "int4": 7.0, "int4-block": 7.0, "fp8": 448.0}


class _Writer:
    def __init__(self, spec: Spec) -> None:
        self.spec = spec
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.scope = ""
        self.random = np.random.default_rng(0)
        self.float_type = TensorProto.FLOAT16 if spec.half else TensorProto.FLOAT

    def op(
        self, kind: str, *inputs: str, name: str = "", outputs: int = 1, **attributes: object
    ) -> str:
        name = f"{self.scope}/{name or kind}"
        taken = sum(node.name == name or node.name.startswith(name + "_") for node in self.nodes)
        name = f"{name}_{taken}" if taken else name
        result = f"{name}_output_0"
        self.nodes.append(helper.make_node(kind, list(inputs), [result], name=name, **attributes))
        return result

    def constant(self, values: npt.ArrayLike, kind: int | None = None, name: str = "") -> str:
        name = name or f"constant_{len(self.constants)}"
        array = np.asarray(values)
        if kind is None:
            tensor = numpy_helper.from_array(array, name)
        else:
            tensor = helper.make_tensor(name, kind, array.shape, array.flatten().tolist())
        self.constants.append(tensor)
        return name

    def number(self, values: npt.ArrayLike, wide: bool = False) -> str:
        half = self.spec.half and not wide
        return self.constant(np.asarray(values, np.float16 if half else np.float32))

    def normal(self, *shape: int) -> FloatArray:
        fan_in = shape[0] if len(shape) > 1 else 1e4
        return (self.random.standard_normal(shape) / np.sqrt(fan_in)).astype(np.float32)

    # The layers -----------------------------------------------------------------------------------

    def quantized(self, x: str, kind: str, scale: float, wide: bool = False) -> str:
        if kind == "float":
            return x
        scale_name = self.number(scale, wide)
        zero = self.constant(self.spec.zero_point, _CARRIER[kind])
        q = self.op("QuantizeLinear", x, scale_name, zero)
        return self.op("DequantizeLinear", q, scale_name, zero)

    def weight(self, values: FloatArray, wide: bool) -> str:
        kind = self.spec.weights
        if kind == "float":
            return self.number(values, wide)
        largest = _LARGEST[kind]
        attributes: dict[str, object] = {"axis": 1}
        if kind == "int4-block":
            blocks = values.reshape(-1, self.spec.block, values.shape[1])
            scale = np.abs(blocks).max(axis=1) / largest
            spread = np.repeat(scale, self.spec.block, axis=0)
            attributes = {"axis": 0, "block_size": self.spec.block}
        elif self.spec.scales_along_k:
            scale = np.abs(values).max(axis=1) / largest
            spread = scale[:, None]
            attributes = {"axis": 0}
        else:
            scale = np.abs(values).max(axis=0) / largest
            spread = scale
        steps = values / spread
        steps = steps if kind == "fp8" else np.rint(steps).clip(-largest, largest).astype(int)
        stored = self.constant(steps, _CARRIER[kind], name=f"{self.scope}.weight")
        return self.op("DequantizeLinear", stored, self.number(scale, wide), **attributes)

    def linear(self, x: str, inputs: int, outputs: int, name: str) -> str:
        spec, outer = self.spec, self.scope
        self.scope = f"{outer}/{name}"
        wide = spec.half and spec.island and spec.activations != "float"
        if wide:
            x = self.op("Cast", x, to=TensorProto.FLOAT)
        x = self.quantized(x, spec.activations, 0.03, wide)
        y = self.op("MatMul", x, self.weight(self.normal(inputs, outputs), wide))
        y = self.op("Add", y, self.number(self.normal(outputs), wide))
        if wide:
            y = self.op("Cast", y, to=TensorProto.FLOAT16)
        self.scope = outer
        return y

    def norm(self, x: str, width: int, name: str) -> str:
        affine = self.number(np.ones(width)), self.number(self.normal(width))
        return self.op("LayerNormalization", x, *affine, name=name, axis=-1, epsilon=1e-6)

    def heads(self, x: str, name: str) -> str:
        shape = self.constant(np.array([0, 0, self.spec.heads, self.spec.head_dim], np.int64))
        x = self.op("Reshape", x, shape, name=f"{name}_split")
        return self.op("Transpose", x, name=f"{name}_heads", perm=[0, 2, 1, 3])

    def part(self, qkv: str, index: int, width: int) -> str:
        bounds = ([index * width], [(index + 1) * width], [2])
        return self.op("Slice", qkv, *(self.constant(np.array(b, np.int64)) for b in bounds))

    def attention(self, x: str, width: int) -> str:
        spec = self.spec
        if spec.fused_qkv:
            qkv = self.linear(x, width, 3 * width, "qkv")
        if spec.fused_qkv and spec.split == "slice":
            q, k, v = (self.heads(self.part(qkv, index, width), "qkv"[index]) for index in range(3))
        elif spec.fused_qkv:
            shape = self.constant(np.array([0, 0, 3, spec.heads, spec.head_dim], np.int64))
            qkv = self.op("Reshape", qkv, shape)
            qkv = self.op("Transpose", qkv, perm=[2, 0, 3, 1, 4])
            q, k, v = (
                self.op("Gather", qkv, self.constant(np.array(i, np.int64)), axis=0)
                for i in range(3)
            )
        else:
            q, k, v = (self.heads(self.linear(x, width, width, part), part) for part in "qkv")
        root = self.number(spec.head_dim**-0.25)
        if spec.scores == "root":
            q, k = self.op("Mul", q, root), self.op("Mul", k, root)
        elif spec.scores == "q":
            q = self.op("Mul", q, self.number(spec.head_dim**-0.5))
        q, k, v = (self.quantized(part, spec.attention, 0.03) for part in (q, k, v))
        scores = self.op("MatMul", q, self.op("Transpose", k, perm=[0, 1, 3, 2]), name="scores")
        if spec.scores == "product":
            scores = self.op("Mul", scores, self.number(spec.head_dim**-0.5))
        probs = self.mix(self.op("Softmax", self.mix(scores), axis=-1))
        probs = self.quantized(probs, spec.attention, 1 / 127)
        merged = self.op("Transpose", self.op("MatMul", probs, v, name="heads"), perm=[0, 2, 1, 3])
        merged = self.op("Reshape", merged, self.constant(np.array([0, 0, width], np.int64)))
        return self.linear(merged, width, width, "proj")

    def mix(self, x: str) -> str:
        heads = self.spec.heads
        if not self.spec.mixed:
            return x
        return self.op("Conv", x, self.number(self.normal(heads, heads, 1, 1)))

    def block(self, x: str, width: int, index: int) -> str:
        self.scope = f"blocks.{index}"
        y = self.norm(x, width, "norm1")
        self.scope = f"blocks.{index}/attn"
        x = self.op("Add", x, self.attention(y, width))
        self.scope = f"blocks.{index}"
        y = self.norm(x, width, "norm2")
        self.scope = f"blocks.{index}/mlp"
        y = self.linear(y, width, 4 * width, "fc1")
        y = self.linear(self.op("Gelu", y), 4 * width, width, "fc2")
        return self.op("Add", x, y)


def transformer(spec: Spec) -> onnx.ModelProto:
    """The graph: fp32 ``images`` (B, 3, S, S) to fp32 ``logits`` (B, classes)."""
    w = _Writer(spec)
    width = spec.heads * spec.head_dim
    x = "images"
    if spec.half:
        x = w.op("Cast", x, name="to_half", to=TensorProto.FLOAT16)
    kernel = w.number(w.normal(48, width).T.reshape(width, 3, 4, 4))
    x = w.op("Conv", x, kernel, name="patch_embed", kernel_shape=[4, 4], strides=[4, 4])
    x = w.op("Reshape", x, w.constant(np.array([0, width, -1], np.int64)))
    x = w.op("Transpose", x, perm=[0, 2, 1])
    for index in range(spec.depth):
        x = w.block(x, width, index)
    w.scope = ""
    x = w.norm(x, width, "norm")
    x = w.op("ReduceMean", x, w.constant(np.array([1], np.int64)), keepdims=0)
    x = w.linear(x, width, spec.classes, "head")
    if spec.half:
        w.op("Cast", x, name="to_float", to=TensorProto.FLOAT)
    w.nodes[-1].output[0] = "logits"
    image = helper.make_tensor_value_info(
        "images", TensorProto.FLOAT, ["batch", 3, spec.image, spec.image]
    )
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", spec.classes])
    graph = helper.make_graph(w.nodes, "transformer", [image], [logits], w.constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.checker.check_model(model)
    return model
