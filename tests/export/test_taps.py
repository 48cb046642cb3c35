"""Graphs that also give tensors from inside."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from export_networks import Exported

from mimiq.errors import UnsupportedModel
from mimiq.export import to_fp16
from mimiq.export.graph import load
from mimiq.export.taps import between, block_sums, tap
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

Export = Callable[[str], Exported]
SUMS = ["model/Add", *(f"blocks.{i}/Add{end}" for i in range(2) for end in ("", "_1"))]


@pytest.mark.parametrize("label", ["fp32", "w8a8", "w4a8", "w4a16-b32"])
def test_both_forms_have_the_same_sums(exported: Export, label: str, tmp_path: Path) -> None:
    plain = exported(label).path
    half = to_fp16(plain, tmp_path / "half.onnx")
    assert block_sums(plain) == block_sums(half) == SUMS
    taps = tap(plain, tmp_path / "a.onnx", SUMS)
    assert taps == tap(half, tmp_path / "b.onnx", SUMS)
    assert [one.name for one in taps] == [*SUMS, "logits"]
    assert [one.stop - one.start for one in taps] == [65 * 64] * 5 + [10]
    for name in "ab":
        onnx.checker.check_model(onnx.load(tmp_path / f"{name}.onnx"), full_check=True)


def test_the_logits_are_untouched(exported: Export, tmp_path: Path) -> None:
    network = exported("w8a8")
    (*_, logits) = tap(network.path, tmp_path / "tapped.onnx", SUMS)
    images = network.images[:4].numpy()
    with (
        OnnxRuntimeSession(tmp_path / "tapped.onnx") as tapped,
        OnnxRuntimeSession(network.path) as plain,
    ):
        everything = tapped.run(images)
        np.testing.assert_allclose(
            everything[:, logits.start : logits.stop], plain.run(images), atol=2e-3
        )


def test_inside_a_block(exported: Export, tmp_path: Path) -> None:
    """Named alike in the form with split scales, whose products are others."""
    plain = exported("w8a8").path
    attention = between(plain, "blocks.0/Add_1", "blocks.1/Add")
    assert attention == [
        "blocks.1.norm1/LayerNormalization",
        "blocks.1.attn.qkv/Add",
        "blocks.1.attn.scores/MatMul",
        "blocks.1.attn/Softmax",
        "blocks.1.attn.heads/MatMul",
        "blocks.1.attn.proj/Add",
        "blocks.1/Add",
    ]
    half = to_fp16(plain, tmp_path / "half.onnx")
    for graph in (plain, half):
        names = [one.name for one in tap(graph, tmp_path / "inside.onnx", attention)]
        assert names == [*attention, "logits"]
    assert between(plain, None, "model/Add") == ["model/Add"]


def test_what_cannot_be_tapped_is_left_out(exported: Export, tmp_path: Path) -> None:
    plain = exported("w8a8").path
    transposed = "blocks.0.attn/Transpose"  # (3, batch, …)
    assert transposed in {node.name for node in load(plain).graph}
    names = ["absent", transposed, "blocks.0.attn.q_quantizer/QuantizeLinear", "blocks.0/Add"]
    assert [one.name for one in tap(plain, tmp_path / "a.onnx", names)] == [
        "blocks.0/Add",
        "logits",
    ]


def test_several_outputs_are_refused(exported: Export, tmp_path: Path) -> None:
    model = load(exported("fp32").path)
    model.graph.outputs.append(next(iter(model.graph)).outputs[0])
    with pytest.raises(UnsupportedModel, match="no logits"):
        tap(model, tmp_path / "a.onnx", SUMS)  # type: ignore[arg-type]
