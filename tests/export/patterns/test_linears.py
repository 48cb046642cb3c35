"""Finding Linears and attentions, in our graphs and in other forms."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from export_networks import Exported
from graphs import graph
from onnx import helper

from mimiq.export.graph import load
from mimiq.export.patterns.attention import find_attentions
from mimiq.export.patterns.linears import Linear, find_linears


def dequantized(
    shape: tuple[int, ...], scale: tuple[int, ...], consumer: list[Any], **attributes: int
) -> Linear:
    """The one Linear of a graph whose weight ``wd`` is dequantised from int8 of this shape."""
    nodes = [helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], **attributes), *consumer]
    rank = 4 if len(shape) == 4 else 2
    model = graph(
        nodes,
        {"x": [1, *shape[1:]] if rank == 4 else ["b", 8]},
        {"w": np.ones(shape, np.int8), "s": np.ones(scale, np.float32)},
    )
    (linear,) = find_linears(model)
    return linear


MATMUL = [helper.make_node("MatMul", ["x", "wd"], ["y"])]
GEMM = [helper.make_node("Gemm", ["x", "wd"], ["y"], transB=1)]
CONV = [helper.make_node("Conv", ["x", "wd"], ["y"])]
TRANSPOSED = [
    helper.make_node("Transpose", ["wd"], ["wt"], perm=[1, 0]),
    helper.make_node("MatMul", ["x", "wt"], ["y"]),
]


@pytest.mark.parametrize(
    ("shape", "scale", "consumer", "attributes", "granularity"),
    [
        ((8, 4), (4,), MATMUL, {"axis": 1}, "per channel"),
        ((8, 4), (8,), MATMUL, {"axis": 0}, "along K"),
        ((8, 4), (4,), MATMUL, {"axis": -1}, "per channel"),
        ((8, 4), (), MATMUL, {}, "per tensor"),
        ((8, 4), (2, 4), MATMUL, {"axis": 0, "block_size": 4}, "block 4"),
        ((8, 4), (8, 1), MATMUL, {"axis": 1, "block_size": 4}, "along K"),
        ((4, 8), (4,), GEMM, {"axis": 0}, "per channel"),
        ((4, 8), (8,), GEMM, {"axis": 1}, "along K"),
        ((4, 8), (4,), TRANSPOSED, {"axis": 0}, "per channel"),
        ((4, 8), (8,), TRANSPOSED, {"axis": 1}, "along K"),
        ((4, 2, 2, 2), (4,), CONV, {"axis": 0}, "per channel"),
    ],
)
def test_granularity_and_inputs(
    shape: tuple[int, ...],
    scale: tuple[int, ...],
    consumer: list[Any],
    attributes: dict[str, int],
    granularity: str,
) -> None:
    linear = dequantized(shape, scale, consumer, **attributes)
    assert linear.granularity == granularity
    assert linear.inputs == 8


def test_products_of_computed_values_are_no_linears() -> None:
    model = graph([helper.make_node("MatMul", ["x", "z"], ["y"])], {"x": [2, 3], "z": [3, 4]})
    assert not find_linears(model)


def test_attentions_of_an_exported_network(exported: Callable[[str], Exported]) -> None:
    attentions = find_attentions(load(exported("w8a8").path))
    assert [a.softmax.name for a in attentions] == [f"blocks.{i}.attn/Softmax" for i in (0, 1)]
    for attention in attentions:
        assert (attention.sequence, attention.head_size) == (65, 32)
        assert all(isinstance(node, ir.Node) for node in attention.quantized.values())
    for attention in find_attentions(load(exported("fp32").path)):
        assert not any(attention.quantized.values())


def loaded_by(modules: str, heavy: set[str]) -> set[str]:
    """Which of the heavy libraries a fresh interpreter has loaded after importing ``modules``."""
    code = f"import sys, {modules}; print(*({heavy!r} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_importing_the_package_loads_no_heavy_library() -> None:
    assert not loaded_by("mimiq.export", {"torch", "onnx", "onnx_ir", "onnxscript", "timm"})


def test_converting_and_checking_files_needs_no_torch() -> None:
    modules = "mimiq.export.forms, mimiq.export.rules, mimiq.export.summary"
    assert not loaded_by(modules, {"torch", "onnxscript", "timm"})
