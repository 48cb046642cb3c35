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
from tensorrt_graphs import Spec

from mimiq.errors import BadInput, EnvironmentLacks, UnsupportedTarget
from mimiq.export.tensorrt import engines
from mimiq.export.tensorrt.build import BuildOptions
from mimiq.export.tensorrt.engines import (
    build_for_bundle,
    choose_product,
    options_of,
    recorded_proofs,
)
from mimiq.export.tensorrt.product import RTX
from mimiq.runtime import tensorrt_selection as selection
from mimiq.runtime.bundle import Bundle, add_files
from mimiq.runtime.hardware import cuda_driver_present
from mimiq.runtime.tensorrt_cuda import Gpu
from mimiq.runtime.tensorrt_record import EngineRecord

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
    assert not selection.can_run(bundle)
    for product in ("rtx", "auto"):
        with pytest.raises(EnvironmentLacks, match="No NVIDIA driver") as caught:
            selection.open_tensorrt(bundle, product)
        assert caught.value.next_step
    with pytest.raises(BadInput):
        selection.open_tensorrt(bundle, "cuda")


@pytest.mark.parametrize("damage", ["truncate", "garbage", "empty"])
def test_damaged_engines(tmp_path: Path, damage: str) -> None:
    """Refused by the real library, before any CUDA call matters."""
    from mimiq.runtime.tensorrt import TensorRTSession

    built = build_for_bundle(make_bundle(tmp_path), "rtx")
    plan = built.bundle.file(built.engine_name).read_bytes()
    path = tmp_path / "damaged.plan"
    path.write_bytes({"truncate": plan[:-100], "garbage": b"x" * 1000, "empty": b""}[damage])
    cuda: Any = object()
    with pytest.raises(BadInput, match="truncated, or of another version") as caught:
        TensorRTSession(path, RTX.load(), "rtx", cuda=cuda)
    assert "mimiq build" in caught.value.next_step


@pytest.fixture
def ampere(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if the host had an A100; nothing is run on it."""
    monkeypatch.setattr(selection, "gpu_or_reason", lambda: AMPERE)
    monkeypatch.setattr(type(RTX), "can_run_here", lambda self: self == RTX)
    monkeypatch.setattr(selection, "_header_fits", lambda plan, product: True)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The engines that would have been opened."""
    from mimiq.runtime import tensorrt

    paths: list[Path] = []
    monkeypatch.setattr(tensorrt, "TensorRTSession", lambda path, *a, **k: paths.append(path))
    return paths


def rewrite(bundle: Bundle, folder: Path, **changes: Any) -> Bundle:
    """The bundle with another record beside its engine."""
    record = replace(EngineRecord.read(bundle.file("engines/rtx.json")), **changes)
    data = json.loads(bundle.file("engines/rtx.json").read_text()) | record.to_json()
    path = folder / "record.json"
    path.write_text(json.dumps(data))
    return add_files(bundle, {"engines/rtx.json": path})


@pytest.mark.usefixtures("ampere")
def test_a_fitting_engine_is_opened_as_it_is(tmp_path: Path, opened: list[Path]) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    before = bundle.file("engines/rtx.plan").stat().st_mtime_ns
    assert selection.can_run(bundle)
    selection.open_tensorrt(bundle)
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
        selection.open_tensorrt(bundle, "rtx", rebuild=False)
    assert selection.can_run(bundle)
    selection.open_tensorrt(bundle, "rtx")
    assert opened == [bundle.path / "engines/rtx.plan"]
    record = EngineRecord.read(bundle.path / "engines/rtx.json")
    assert record.mismatch(RTX.version, AMPERE, record.source_sha256) is None
    assert record.batches == (1, 3, 7)  # as it was asked for


@pytest.mark.usefixtures("ampere")
def test_a_bundle_without_an_engine_gets_one(tmp_path: Path, opened: list[Path]) -> None:
    bundle = make_bundle(tmp_path)
    assert not selection.can_run(bundle)
    selection.open_tensorrt(bundle, "rtx")
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

    monkeypatch.setattr(engines, "build_for_bundle", fail)
    with pytest.raises(EnvironmentLacks, match=r"version 1\.0.*The disk is full"):
        selection.open_tensorrt(bundle, "rtx")
    assert not opened


def test_broken_records(tmp_path: Path) -> None:
    bundle = build_for_bundle(make_bundle(tmp_path), "rtx").bundle
    (tmp_path / "broken.json").write_text('{"proof": {}}')
    bundle = add_files(bundle, {"engines/rtx.json": tmp_path / "broken.json"})
    assert not selection.can_run(bundle)
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
