"""The whole compiler on the embedded model, offline: real weights, real held-out images."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from compiled import INT4, INT8, WEIGHT_ONLY, Compile, Compiled
from graphs import require_valid

import mimiq.runtime
from mimiq.config.precision import Precision, int4, int8, weight_only
from mimiq.models import load_model
from mimiq.models.digits import digits_heldout
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.latency import tuned

# Flags, the precision they mean, and the most top-1 points that it may lose on 359 images. One
# image is 0.28 points; −0.3, 0.0 and 0.0 were measured.
RUNS = [
    pytest.param(INT8, int8(), 1.5, id="int8"),
    pytest.param(INT4, int4(), 2.0, id="int4"),
    pytest.param(WEIGHT_ONLY, weight_only(4, 64), 1.5, id="int4-weight-only"),
]
# What each graph of a bundle is for, by its metadata.
RUNTIMES = {
    "model.onnx": "any",
    "model.cpu.onnx": "ONNX Runtime on a CPU",
    "model.fp16.onnx": "TensorRT, TensorRT-RTX",
    "model.openvino.onnx": "OpenVINO",
}

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(("flags", "precision", "points"), RUNS)
class TestEachPrecision:
    def test_little_accuracy_is_lost(
        self, compile_digits: Compile, flags: tuple[str, ...], precision: Precision, points: float
    ) -> None:
        accuracy = compile_digits(*flags).result["accuracy"]
        assert accuracy["count"] == 359
        assert accuracy["reference"]["top1"] >= 97
        assert accuracy["drop"] <= points

    def test_the_cost_on_images_held_out_is_said(
        self, compile_digits: Compile, flags: tuple[str, ...], precision: Precision, points: float
    ) -> None:
        found = compile_digits(*flags).result
        cost = found["heldout"]
        assert cost["count"] >= 10
        assert cost["agreement"] >= 0.9
        assert abs(cost["points"] - found["accuracy"]["drop"]) < 3

    def test_the_bundle_runs_and_is_as_accurate_as_it_says(
        self, compile_digits: Compile, flags: tuple[str, ...], precision: Precision, points: float
    ) -> None:
        compiled = compile_digits(*flags)
        images, labels = digits_heldout()
        with mimiq.runtime.open_bundle(compiled.path, backend="ort") as session:
            logits = session.run(images)
        correct = int((logits.argmax(1) == labels).sum())
        assert logits.shape == (359, 10)
        assert correct == compiled.result["accuracy"]["accuracy"]["correct"]

    def test_the_manifest_says_how_it_was_made(
        self, compile_digits: Compile, flags: tuple[str, ...], precision: Precision, points: float
    ) -> None:
        compiled = compile_digits(*flags)
        bundle = mimiq.runtime.Bundle(compiled.path)
        manifest = bundle.manifest
        digits = load_model("digits")
        placed = precision.placed(digits.family.roles(digits.module))
        assert Precision.from_json(manifest["precision"]) == placed
        assert manifest["model"]["name"] == "digits"
        assert manifest["model"]["untrained"] is False
        assert manifest["calibration"]["kind"] == "synthetic"
        assert manifest["calibration"]["model"]["weights_sha256"] == weights_hash(compiled)
        assert manifest["recipes"]["name"] == "tiny"
        assert manifest["recipes"]["synthesis"]["images"] == manifest["calibration"]["count"]
        assert {"mimiq", "torch", "onnx", "python"} <= set(manifest["software"])
        assert manifest["hardware"]["cores"] >= 1
        assert {"model.onnx", "report.json", "labels.txt", "images.jpg"} <= set(manifest["files"])
        assert bundle.labels == tuple("0123456789")
        assert bundle.report is not None
        extra = {"bundle", "engine", "fastest"}
        printed = {key: value for key, value in compiled.result.items() if key not in extra}
        assert printed == json.loads(json.dumps(bundle.report.to_json()))

    def test_every_graph_is_valid_onnx_and_says_which_runtimes_it_is_for(
        self, compile_digits: Compile, flags: tuple[str, ...], precision: Precision, points: float
    ) -> None:
        bundle = mimiq.runtime.Bundle(compile_digits(*flags).path)
        graphs = [name for name in bundle.manifest["files"] if name.endswith(".onnx")]
        # OpenVINO's own form is for quantised activations.
        lacking = {"model.openvino.onnx"} if flags == WEIGHT_ONLY else set()
        assert set(graphs) == set(RUNTIMES) - lacking
        for name in graphs:
            model = require_valid(bundle.file(name))
            found = {entry.key: entry.value for entry in model.metadata_props}
            assert found["mimiq.runtimes"] == RUNTIMES[name]


def test_another_precision_reuses_the_images(compile_digits: Compile, own_cache: Path) -> None:
    first, second = compile_digits(*INT8), compile_digits(*INT4)
    # Whichever an earlier test asked for first made them.
    assert any("reusing calibration-" in compiled.progress for compiled in (first, second))
    hashes = {
        mimiq.runtime.Bundle(compiled.path).manifest["calibration"]["content_sha256"]
        for compiled in (first, second)
    }
    assert len(hashes) == 1


def test_the_same_again_is_all_from_the_cache(
    compile_digits: Compile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And gives the same graph, bit by bit."""
    compile_digits(*INT8)
    import mimiq.stages.tune

    def work(*_: object, **__: object) -> None:
        raise AssertionError("a finished stage was done again")

    for stage in ("quantize", "distill"):
        monkeypatch.setattr(mimiq.stages.tune, stage, work)
    again = compile_digits(*INT8[:3], "--no-bench", "--target", "ort")
    files = [
        mimiq.runtime.Bundle(compiled.path).manifest["files"]["model.onnx"]
        for compiled in (compile_digits(*INT8), again)
    ]
    assert files[0] == files[1]


def test_fewer_bits_take_fewer_bytes(compile_digits: Compile) -> None:
    sizes = {flags: compile_digits(*flags).result["size"] for flags in (INT8, INT4, WEIGHT_ONLY)}
    before = sizes[INT8]["reference_bytes"]
    assert sizes[INT8]["bytes"] < before / 3
    assert sizes[INT4]["bytes"] < before / 5
    assert sizes[WEIGHT_ONLY]["bytes"] < before / 5


def test_latency_is_measured_against_the_fp32_graph(compile_digits: Compile) -> None:
    reference, ours = compile_digits(*INT8).result["latency"]
    assert (reference["engine"], ours["engine"]) == ("fp32", "w8a8")
    assert reference["batch"] == ours["batch"] == 1
    assert 0 < ours["p50_ms"] <= ours["p90_ms"] <= ours["p99_ms"]
    assert ours["throughput"] > 0


def test_the_fastest_backend_is_measured_and_kept(compile_digits: Compile) -> None:
    pytest.importorskip("openvino", reason="needs the extra 'openvino'")
    if cuda_driver_present():
        pytest.skip("this host has a GPU, and its CPU does not serve")
    compiled = compile_digits(*INT8)
    found = compiled.result["fastest"]
    assert found["best"] in ("ort", "openvino")
    engines = {"ort", "openvino", "ort, not quantised", "openvino, not quantised"}
    assert {row["engine"] for row in found["rows"]} == engines
    assert tuned.fastest(mimiq.runtime.Bundle(compiled.path)) == found["best"]
    # One run measured both: what the report shows are the same rows.
    timed = {row["engine"]: row["p50_ms"] for row in found["rows"]}
    shown = {row["engine"]: row["p50_ms"] for row in compiled.result["latency"]}
    assert shown == {"fp32": timed["ort, not quantised"], "w8a8": timed["ort"]}
    assert compile_digits(*INT4).result["fastest"] is None


def test_an_engine_is_built_where_the_library_is(compile_digits: Compile) -> None:
    pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
    engine = compile_digits(*INT8).result["engine"]
    assert engine["engine"] == "engines/rtx.plan"
    assert engine["proof"]["fallbacks"] == []
    assert engine["proof"]["summary"]["linears"] == {"int8": 17}


def test_a_batch_of_any_size(compile_digits: Compile) -> None:
    images, _ = digits_heldout()
    with mimiq.runtime.open_bundle(compile_digits(*INT8).path, backend="ort") as session:
        whole = session.run(images[:7])
        single = np.concatenate([session.run(images[i : i + 1]) for i in range(7)])
    assert np.abs(whole - single).max() < 1e-3


def weights_hash(compiled: Compiled) -> str:
    digest: str = compiled.result["model"]["weights_sha256"]
    return digest
