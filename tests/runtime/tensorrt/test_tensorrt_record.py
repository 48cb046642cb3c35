"""An engine's record: read strictly, and never trusted on another host."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mimiq.errors import BadInput
from mimiq.runtime.tensorrt.cuda import Gpu
from mimiq.runtime.tensorrt.record import EngineRecord

RTX = EngineRecord(
    product="rtx",
    version="1.7",
    targets=("8.0",),
    forward_compatible=True,
    gpu=None,
    gpu_compute_capability=None,
    hardware_compatibility="none",
    batches=(1, 8, 32),
    allow_fallback=False,
    source="model.onnx",
    source_sha256="a",
    plan_sha256="b",
    plan_bytes=3,
)
TRT = replace(
    RTX,
    product="trt",
    version="11.4",
    targets=(),
    forward_compatible=False,
    gpu="NVIDIA L4",
    gpu_compute_capability="8.9",
)


def gpu(capability: str, name: str = "NVIDIA L4") -> Gpu:
    return Gpu(name, capability, 1 << 30, "13.0")


def test_round_trip(tmp_path: Path) -> None:
    for record in (RTX, TRT):
        path = tmp_path / "engine.json"
        path.write_text(json.dumps({**record.to_json(), "proof": {"more": 1}}))
        assert EngineRecord.read(path) == record


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"batches": [1, 2]},
        {"batches": "x"},
        {"targets": None},
        {"batches": None},
    ],
)
def test_broken_records(tmp_path: Path, change: dict[str, Any]) -> None:
    path = tmp_path / "engine.json"
    data = {**RTX.to_json(), **change}
    if not change:
        del data["version"]
    path.write_text(json.dumps(data))
    with pytest.raises(BadInput, match=r"engine\.json"):
        EngineRecord.read(path)


def test_a_record_that_is_no_json(tmp_path: Path) -> None:
    (tmp_path / "engine.json").write_text("{")
    with pytest.raises(BadInput, match="not valid JSON"):
        EngineRecord.read(tmp_path / "engine.json")
    with pytest.raises(BadInput):
        EngineRecord.read(tmp_path / "none.json")


def test_versions_and_graphs() -> None:
    assert RTX.mismatch("1.7", None, "a") is None
    assert RTX.mismatch("1.7", None, None) is None
    assert "version 1.7" in str(RTX.mismatch("1.8", None, "a"))
    assert "model.onnx has changed" in str(RTX.mismatch("1.7", None, "other"))


@pytest.mark.parametrize(
    ("targets", "forward", "capability", "fits"),
    [
        (("8.0",), True, "8.0", True),
        (("8.0",), True, "9.0", True),
        (("8.0",), True, "12.0", True),  # as numbers, not as text
        (("8.0",), True, "7.5", False),
        (("8.0",), False, "8.6", False),
        (("8.6", "8.9"), False, "8.9", True),
        (("12.0",), True, "8.9", False),
        ((), False, "8.9", True),  # nothing is known: the runtime will judge
    ],
)
def test_rtx_and_gpus(targets: tuple[str, ...], forward: bool, capability: str, fits: bool) -> None:
    record = replace(RTX, targets=targets, forward_compatible=forward)
    assert (record.mismatch("1.7", gpu(capability), "a") is None) == fits


@pytest.mark.parametrize(
    ("level", "name", "capability", "fits"),
    [
        ("none", "NVIDIA L4", "8.9", True),
        ("none", "NVIDIA RTX 4090", "8.9", False),
        ("same-compute-capability", "NVIDIA RTX 4090", "8.9", True),
        ("same-compute-capability", "NVIDIA H100", "9.0", False),
        ("ampere-plus", "NVIDIA H100", "9.0", True),
        ("ampere-plus", "Tesla T4", "7.5", False),
    ],
)
def test_trt_and_gpus(level: str, name: str, capability: str, fits: bool) -> None:
    record = replace(TRT, hardware_compatibility=level)
    reason = record.mismatch("11.4", gpu(capability, name), "a")
    assert (reason is None) == fits
    if reason is not None:
        assert name in reason
