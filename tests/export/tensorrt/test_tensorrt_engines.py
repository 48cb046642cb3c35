"""Engines in bundles: built, proved, recorded, and built again where they do not fit."""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tensorrt_bundles import make_bundle
from tensorrt_graphs import Spec, transformer

from mimiq.errors import BadInput, EnvironmentLacks, UnsupportedTarget
from mimiq.export.tensorrt import engines, on_opening
from mimiq.export.tensorrt.build import BuildOptions
from mimiq.export.tensorrt.engines import (
    add_fp8_graph,
    build_for_bundle,
    choose_product,
    recorded_proofs,
)
from mimiq.export.tensorrt.on_opening import options_of
from mimiq.runtime.backend import Lack
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.tensorrt import selection
from mimiq.runtime.tensorrt.cuda import Gpu
from mimiq.runtime.tensorrt.products import RTX
from mimiq.runtime.tensorrt.record import EngineRecord

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)
no_gpu = pytest.mark.skipif(cuda_driver_present(), reason="this host has an NVIDIA GPU")
AMPERE = Gpu("NVIDIA A100", "8.0", 40 << 30, "13.0")


def test_build(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, half=Spec())
    made = build_for_bundle(bundle, "rtx", BuildOptions(batches=(1, 4, 16)))
    assert made.engine_name == "engines/rtx.plan"
    assert made.proof.summary.linears() == {"int8": 5}
    record = EngineRecord.read(made.bundle.file("engines/rtx.json"))
    assert record == made.record
    plan = made.bundle.file("engines/rtx.plan").read_bytes()
    assert record.plan_sha256 == hashlib.sha256(plan).hexdigest()
    assert record.plan_bytes == len(plan)
    assert record.source == "model.fp16.onnx"
    assert record.batches == (1, 4, 16)
    assert (record.targets, record.forward_compatible) == (("8.0",), True)
    assert record.version == RTX.version
    again = Bundle(bundle.path, verify=True)  # the manifest lists and hashes both files
    assert recorded_proofs(again) == {"engines/rtx.plan": made.proof}
    assert selection.engines_of(again)[0].record == record


def test_without_a_half_precision_graph(tmp_path: Path) -> None:
    made = build_for_bundle(make_bundle(tmp_path), RTX)
    assert made.record.source == "model.onnx"


def test_engines_for_named_gpus_have_names_of_their_own(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    made = build_for_bundle(bundle, "rtx", BuildOptions(compute_capabilities=("8.6", "12.0")))
    assert made.engine_name == "engines/rtx-sm86-sm120.plan"
    assert made.record.targets == ("8.6", "12.0")
    assert not made.record.forward_compatible


def test_a_lost_precision_leaves_nothing_behind(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, half=Spec(split="slice"))
    with pytest.raises(UnsupportedTarget, match=r"attn/qkv/MatMul: wanted int8"):
        build_for_bundle(bundle, "rtx")
    assert not (bundle.path / "engines").exists()
    made = build_for_bundle(bundle, "rtx", BuildOptions(allow_fallback=True))
    assert len(made.proof.fallbacks) == 1


def test_without_the_library_that_reads_graphs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The builder refuses, in other words, what the rules would have refused."""
    monkeypatch.setattr(engines, "_reads_graphs", lambda: False)
    bundle = make_bundle(tmp_path, half=Spec(zero_point=3))
    with pytest.raises(UnsupportedTarget, match="Non-zero zero point"):
        build_for_bundle(bundle, "rtx")
    with pytest.raises(EnvironmentLacks, match="onnx-ir is not installed"):
        add_fp8_graph(bundle)


@pytest.mark.parametrize(
    ("spec", "rule"),
    [
        (Spec(zero_point=3), "zero-points"),
        (Spec(scales_along_k=True), "weight-scales-along-inputs"),
        (Spec(activations="uint8"), "unsigned-activations"),
        (Spec(weights="int4-block"), "blocks-with-activations"),
        (Spec(weights="fp8", activations="fp8", attention="fp8"), "fp8-needs-ada"),
        (Spec(island=False), "half-accumulation"),
    ],
)
def test_rules_come_before_the_build(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: Spec, rule: str
) -> None:
    """Without named GPUs an engine is for 8.0 and later, so that FP8 is refused."""
    monkeypatch.setattr(engines, "build_engine", _not_reached)
    bundle = make_bundle(tmp_path, half=replace(spec, depth=6))
    with pytest.raises(UnsupportedTarget, match=f"rule {rule}") as caught:
        build_for_bundle(bundle, "rtx")
    assert caught.value.next_step
    assert "Traceback" not in str(caught.value)


def test_a_block_that_does_not_divide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_bundle(tmp_path)
    graph = transformer(Spec(weights="int4-block", activations="float", attention="float"))
    for node in graph.graph.node:
        for attribute in node.attribute:
            if attribute.name == "block_size":
                attribute.i = 48
    (tmp_path / "half.onnx").write_bytes(graph.SerializeToString())
    bundle = add_files(bundle, {"model.fp16.onnx": tmp_path / "half.onnx"})
    monkeypatch.setattr(engines, "build_engine", _not_reached)
    with pytest.raises(UnsupportedTarget, match="Blocks of 48 do not divide its 64 inputs"):
        build_for_bundle(bundle, "rtx")


def _not_reached(*_: Any) -> None:
    raise AssertionError("the builder was asked")


def test_fp8(tmp_path: Path) -> None:
    bundle = add_fp8_graph(make_bundle(tmp_path, half=Spec()))
    assert add_fp8_graph(bundle) is bundle
    for options in (BuildOptions(), BuildOptions(compute_capabilities=("8.0", "8.9"))):
        with pytest.raises(UnsupportedTarget, match=r"FP8 does not run on compute capability 8\.0"):
            build_for_bundle(bundle, "rtx", options, "model.fp8.onnx")
    options = BuildOptions(compute_capabilities=("8.9",))
    made = build_for_bundle(bundle, "rtx", options, "model.fp8.onnx")
    assert made.engine_name == "engines/rtx-fp8-sm89.plan"
    assert made.record.is_fp8
    assert made.proof.summary.linears() == {"fp8": 5}
    assert made.proof.summary.fused_attentions() == {"fp8": 1}
    # Beside an engine in INT8 it comes first, for it was asked for by name.
    both = build_for_bundle(made.bundle, "rtx").bundle
    assert [engine.record.is_fp8 for engine in selection.engines_of(both)] == [True, False]
    # On a GPU that it was not compiled for, it is compiled for that one: 8.0 is no choice.
    ada = Gpu("NVIDIA RTX 5090", "12.0", 32 << 30, "13.0")
    assert options_of(made.record, ada).compute_capabilities == ("12.0",)


def test_accepted_fallbacks_are_warnings(tmp_path: Path) -> None:
    """Rules included: with --allow-fallback an engine is built, and says what was lost."""
    bundle = make_bundle(tmp_path, half=Spec(scales_along_k=True))
    with pytest.raises(UnsupportedTarget, match="rule weight-scales-along-inputs"):
        build_for_bundle(bundle, "rtx")
    made = build_for_bundle(bundle, "rtx", BuildOptions(allow_fallback=True))
    assert made.warnings[0].startswith("The weight's scales lie along its inputs")
    assert made.warnings[0].endswith("(5 ×)")


def test_fp8_takes_the_place_of_int8_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, label="w4a8")
    with pytest.raises(UnsupportedTarget, match="this bundle is w4a8"):
        add_fp8_graph(bundle)


def test_targets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="neither rtx nor trt"):
        choose_product("cuda")
    if not cuda_driver_present():
        assert choose_product("auto") == RTX
    monkeypatch.setattr(engines, "choose_product", lambda target: None)
    with pytest.raises(EnvironmentLacks, match="can build on this host"):
        build_for_bundle(make_bundle(tmp_path), "auto")


@no_gpu
def test_running_without_a_driver(tmp_path: Path) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    assert not selection.can_run(bundle, RTX)
    with pytest.raises(EnvironmentLacks, match="No NVIDIA driver") as caught:
        open_bundle(bundle, "rtx")
    assert caught.value.next_step
    with open_bundle(bundle) as session:
        assert session.backend == "onnxruntime-cpu"


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty"])
def test_damaged_engines(tmp_path: Path, damage: str) -> None:
    """Refused by the real library, before any CUDA call matters."""
    from mimiq.runtime.tensorrt.session import TensorRTSession

    built = build_for_bundle(make_bundle(tmp_path), "rtx")
    plan = built.bundle.file(built.engine_name).read_bytes()
    path = tmp_path / "damaged.plan"
    path.write_bytes({"truncate": plan[:-100], "garbage": b"x" * 1000, "empty": b""}[damage])
    cuda: Any = object()
    with pytest.raises(BadInput, match="truncated, or of another version") as caught:
        TensorRTSession(path, RTX.load(), RTX, cuda=cuda)
    assert "mimiq build" in caught.value.next_step


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the host had an A100; nothing is run on it."""
    monkeypatch.setattr(selection, "gpu_or_reason", lambda: AMPERE)
    monkeypatch.setattr(
        type(RTX), "why_not_run", lambda self: None if self == RTX else Lack("Not here.")
    )
    monkeypatch.setattr(selection, "_header_fits", lambda plan, product: True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The engines that would have been opened."""
    from mimiq.runtime.tensorrt import session as tensorrt

    paths: list[Path] = []
    monkeypatch.setattr(tensorrt, "TensorRTSession", lambda path, *a, **k: paths.append(path))
    return paths


@pytest.mark.usefixtures("ampere")
def test_fp8_is_built_again_as_fp8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the session says that it is."""
    from mimiq.runtime.tensorrt import session as tensorrt

    told: list[str] = []
    monkeypatch.setattr(
        tensorrt, "TensorRTSession", lambda *a, precision, **k: told.append(precision)
    )
    monkeypatch.setattr(
        selection, "gpu_or_reason", lambda: replace(AMPERE, compute_capability="8.9")
    )
    bundle = add_fp8_graph(make_bundle(tmp_path, half=Spec()))
    options = BuildOptions(compute_capabilities=("8.9",))
    bundle = build_for_bundle(bundle, "rtx", options, "model.fp8.onnx").bundle
    bundle = rewrite(bundle, tmp_path, "engines/rtx-fp8-sm89.json", version="1.0")
    selection.open_tensorrt(bundle, RTX)
    assert told == ["fp8"]
    record = EngineRecord.read(bundle.path / "engines/rtx-fp8-sm89.json")
    assert record.version == RTX.version
    assert record.is_fp8


def rewrite(bundle: Bundle, folder: Path, name: str = "engines/rtx.json", **changes: Any) -> Bundle:
    """The bundle with another record beside its engine."""
    record = replace(EngineRecord.read(bundle.file(name)), **changes)
    data = json.loads(bundle.file(name).read_text()) | record.to_json()
    path = folder / "record.json"
    path.write_text(json.dumps(data))
    return add_files(bundle, {name: path})


@pytest.mark.usefixtures("ampere")
def test_a_fitting_engine_is_opened_as_it_is(tmp_path: Path, opened: list[Path]) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    before = bundle.file("engines/rtx.plan").stat().st_mtime_ns
    assert selection.can_run(bundle, RTX)
    open_bundle(bundle)
    assert opened == [bundle.path / "engines/rtx.plan"]
    assert bundle.file("engines/rtx.plan").stat().st_mtime_ns == before


@pytest.mark.usefixtures("ampere")
@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"version": "1.0"}, "built by version 1.0"),
        ({"source_sha256": "0"}, "model.onnx has changed"),
        ({"targets": ("8.9",), "forward_compatible": False}, "compute capability 8.9"),
    ],
)
def test_other_engines_are_built_again(
    tmp_path: Path, opened: list[Path], changes: dict[str, Any], reason: str
) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx", BuildOptions(batches=(1, 3, 7))).bundle
    bundle = rewrite(bundle, tmp_path, **changes)
    with pytest.raises(EnvironmentLacks, match=reason):
        selection.open_tensorrt(bundle, RTX, rebuild=False)
    assert selection.can_run(bundle, RTX)
    selection.open_tensorrt(bundle, RTX)
    assert opened == [bundle.path / "engines/rtx.plan"]
    record = EngineRecord.read(bundle.path / "engines/rtx.json")
    assert record.mismatch(RTX.version, AMPERE, record.source_sha256) is None
    assert record.batches == (1, 3, 7)  # as it was asked for


@pytest.mark.usefixtures("ampere")
def test_a_bundle_without_an_engine_gets_one(tmp_path: Path, opened: list[Path]) -> None:
    bundle = make_bundle(tmp_path)
    assert not selection.can_run(bundle, RTX)
    selection.open_tensorrt(bundle, RTX)
    assert opened == [bundle.path / "engines/rtx.plan"]
    assert opened[0].is_file()


@pytest.mark.usefixtures("ampere")
def test_a_rebuild_that_fails_says_both_reasons(
    tmp_path: Path, opened: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    bundle = rewrite(bundle, tmp_path, version="1.0")

    def fail(*_: Any) -> None:
        raise EnvironmentLacks("The disk is full.", "Free some space.")

    monkeypatch.setattr(on_opening, "build_for_bundle", fail)
    with pytest.raises(EnvironmentLacks, match=r"version 1\.0.*The disk is full"):
        selection.open_tensorrt(bundle, RTX)
    assert not opened


def test_broken_records(tmp_path: Path) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    (tmp_path / "broken.json").write_text('{"proof": {}}')
    bundle = add_files(bundle, {"engines/rtx.json": tmp_path / "broken.json"})
    assert not selection.can_run(bundle, RTX)
    with pytest.raises(BadInput, match=r"rtx\.json"):
        selection.engines_of(bundle)
    with pytest.raises(BadInput, match=r"rtx\.json"):
        recorded_proofs(bundle)


def test_options_of_a_record(tmp_path: Path) -> None:
    made = build_for_bundle(
        make_bundle(tmp_path), "rtx", BuildOptions((1, 2, 3), compute_capabilities=("8.6",))
    )
    assert options_of(made.record).compute_capabilities == ("8.6",)
    assert options_of(made.record, AMPERE).compute_capabilities == ()
    trt = replace(made.record, product="trt", hardware_compatibility="ampere-plus")
    assert options_of(trt).hardware_compatibility == "ampere-plus"
    assert options_of(trt).batches == (1, 2, 3)
