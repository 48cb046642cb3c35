"""The network behind a quantised graph, in floating point again."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from export_networks import PRECISIONS, Exported, distance, run_file
from tensorrt_bundles import make_bundle
from tensorrt_graphs import Spec

from mimiq.export import summarize
from mimiq.export.forms import to_float
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.twin import build_half_twin
from mimiq.runtime.tensorrt.products import RTX

Export = Callable[[str], Exported]


@pytest.mark.parametrize("label", [label for label in PRECISIONS if label != "fp32"])
def test_only_the_weights_rounding_is_left(exported: Export, label: str, tmp_path: Path) -> None:
    network = exported(label)
    plain = to_float(network.path, tmp_path / "float.onnx")
    summary = summarize(plain)
    assert set(summary["layers"]) == {"Conv float × float", "MatMul float × float"}
    assert not {"QuantizeLinear", "DequantizeLinear", "Clip"} & set(summary["operators"])
    again, simulated = run_file(plain, network.images), network.module(network.images)
    if "a16" in label:  # no activation was rounded
        assert distance(again, simulated) < 1e-4 * float(simulated.abs().max())
    exact = run_file(exported("fp32").path, network.images)
    assert distance(again, exact) < distance(simulated, exact) + 1e-3


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)
def test_the_twin_of_a_bundle(tmp_path: Path) -> None:
    proof = build_half_twin(make_bundle(tmp_path, half=Spec()), RTX, (1, 2, 4), tmp_path / "p")
    assert proof.summary.linears() == {"half": 5}
    assert proof.summary.fused_attentions() == {"half": 1}
    assert read_plan(tmp_path / "p").linears() == {"half": 5}


def test_blocks_are_spread_along_k(exported: Export, tmp_path: Path) -> None:
    from mimiq.export.graph import array, load
    from mimiq.export.patterns.linears import find_linears

    source = exported("w4a16-b32").path
    (before, *_) = (found for found in find_linears(load(source)) if found.block_size)
    plain = load(to_float(source, tmp_path / "float.onnx"))
    after = next(found for found in find_linears(plain) if found.name == before.name)
    integers, scale = array(before.stored), before.scale
    assert integers is not None
    assert scale is not None
    wanted = integers.astype(np.float32) * np.repeat(scale, 32, axis=0)
    np.testing.assert_array_equal(array(after.stored), wanted)
