"""FP8 graphs from int8 graphs: their numbers under ONNX Runtime, their engines."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st
from tensorrt_bundles import make_bundle
from tensorrt_graphs import Spec, transformer

from mimiq.cli import compile_main, main
from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.fp8 import E4M3, LARGEST, ToFp8
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import judge
from mimiq.runtime.tensorrt.products import RTX


def convert(spec: Spec) -> ir.Model:
    model = ir.from_proto(transformer(spec))
    assert ToFp8()(model).modified
    return model


def logits(model: ir.Model, folder: Path) -> np.ndarray:
    path = folder / "graph.onnx"
    ir.save(model, path)
    options = onnxruntime.SessionOptions()
    # Its optimiser takes FP8 for an integer type; node by node, the numbers are right.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((4, 3, 32, 32)).astype(np.float32)
    return np.asarray(session.run(None, {"images": images})[0])


def test_numbers(tmp_path: Path) -> None:
    """FP8 stays as near to the float network as its three mantissa bits allow."""
    spec = Spec(half=False, weights="float", activations="float", attention="float")
    exact = logits(ir.from_proto(transformer(spec)), tmp_path)
    fp8 = logits(convert(Spec(half=False)), tmp_path)
    error = np.linalg.norm(fp8 - exact) / np.linalg.norm(exact)
    assert 0 < error < 0.08


def test_every_quantiser_is_converted() -> None:
    model = convert(Spec())
    types = {value.dtype for node in model.graph for value in node.inputs if value is not None}
    assert ir.DataType.INT8 not in types
    assert ir.DataType.FLOAT8E4M3FN in types


@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=2, max_size=20))
def test_the_range_is_kept(values: list[float]) -> None:
    """What int8 could hold, FP8 can: 127 old scales are 448 new ones."""
    scale = np.float32(max(map(abs, values)) / 127 + 1e-6)
    adapted = np.float32(scale * (127 / LARGEST))
    held = (np.asarray(values, np.float32) / adapted).clip(-LARGEST, LARGEST).astype(E4M3)
    restored = held.astype(np.float32) * adapted
    np.testing.assert_allclose(restored, values, rtol=2**-3.9, atol=float(adapted) * 2**-9)
    assert np.isfinite(restored).all()
    assert float(ml_dtypes.finfo(E4M3).max) == LARGEST


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)
@pytest.mark.parametrize("capability", ["8.9", "12.0"])
def test_engines(tmp_path: Path, capability: str) -> None:
    path = tmp_path / "graph.onnx"
    ir.save(convert(Spec()), path)
    built = build_engine(path, RTX, BuildOptions(compute_capabilities=(capability,)))
    summary = read_plan(built.plan)
    assert summary.linears() == {"fp8": 5}
    assert summary.fused_attentions() == {"fp8": 1}
    assert judge(summary, built.wanted).fallbacks == ()


def test_int4_is_refused() -> None:
    with pytest.raises(UnsupportedTarget, match="INT4"):
        ToFp8().call(ir.from_proto(transformer(Spec(weights="int4"))))


def test_the_command_line(tmp_path: Path) -> None:
    """Built for every GPU that has FP8, labelled wherever the engine is spoken of."""
    pytest.importorskip("tensorrt_rtx", reason="the extra 'rtx' is not installed")
    bundle = str(make_bundle(tmp_path, half=Spec()).path)

    def call(*arguments: str, code: int = 0) -> Result:
        answer = CliRunner().invoke(main, list(arguments))
        assert answer.exit_code == code, answer.stderr
        return answer

    flags = ("build", bundle, "--target", "rtx", "--fp8")
    refused = call(*flags, "--compute-capabilities", "8.0", code=UnsupportedTarget.exit_code)
    assert "FP8 does not run on compute capability 8.0" in refused.stderr
    assert "8.9 and later" in refused.stderr
    built = json.loads(call(*flags, "--json").stdout)
    assert built["engine"] == "engines/rtx-fp8-sm89-sm120.plan"
    assert built["record"]["source"] == "model.fp8.onnx"
    assert built["proof"]["summary"]["linears"] == {"fp8": 5}
    assert "FP8 (E4M3): its accuracy is not that of the INT8 graph" in built["warnings"][0]
    shown = call("inspect", bundle).stdout
    assert "engines/rtx-fp8-sm89-sm120.plan" in shown
    assert "5 × fp8" in shown


@pytest.mark.parametrize(
    "flags", [("--int4",), ("--int4", "--weight-only"), ("--bits", "w8a16"), ("--target", "ort")]
)
def test_what_fp8_does_not_go_with(flags: tuple[str, ...], tmp_path: Path) -> None:
    """Refused before anything slow begins."""
    arguments = ["digits", "--fp8", *flags, "-o", str(tmp_path / "out"), "--quiet"]
    answer = CliRunner().invoke(compile_main, arguments)
    assert answer.exit_code == BadInput.exit_code
    assert "--fp8" in answer.stderr
    assert not (tmp_path / "out").exists()
