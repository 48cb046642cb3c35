"""``mimiq bench`` of an engine: its own logic, on the fakes; what a host without a GPU says."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("onnx", reason="the extra 'compile' is not installed")

from click.testing import CliRunner, Result
from tensorrt_bundles import make_bundle
from tensorrt_fake import open_fake

from mimiq.cli import main
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.export.tensorrt.proof import Proof
from mimiq.export.tensorrt.summary import PlanSummary
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.latency.measure import Engine
from mimiq.runtime.latency.worker import open_engine
from mimiq.runtime.tensorrt.session import TensorRTSession

FLAGS = ("--batches", "1,8,9", "--seconds", "0.05", "--quiet")
PROOF = Proof(PlanSummary("plan", 1, kernels=3), (), (), (), ())


def bench(*arguments: object, code: int = 0) -> Result:
    answer = CliRunner().invoke(main, ["bench", *map(str, arguments), *FLAGS])
    assert answer.exit_code == code, answer.stderr
    return answer


@pytest.fixture
def engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every bundle's engine is a fake, end-to-end times are left out, and a GPU is told of."""
    for name in ("ours", "half"):
        (tmp_path / name).mkdir()
    state = {"name": "NVIDIA Fake", "clocks.sm": "1980", "clocks.mem": "2619"}
    monkeypatch.setattr("mimiq.runtime.latency.measure.measure", lambda *a, **k: [])
    monkeypatch.setattr(
        "mimiq.export.tensorrt.device_times.open_engine",
        lambda engine: open_fake(tmp_path / "ours")[0],
    )
    monkeypatch.setattr("mimiq.runtime.gpus.gpu_state", lambda: state)
    monkeypatch.setattr(
        "mimiq.export.tensorrt.device_times.describe_gpus", lambda: [{"name": "NVIDIA Fake"}]
    )


@pytest.fixture
def twin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The FP16 engine is a fake whose kernels take twice as long."""

    @contextmanager
    def half(bundle: Any, session: TensorRTSession) -> Iterator[tuple[TensorRTSession, Proof]]:
        twin, _, cuda = open_fake(tmp_path / "half")
        ticks = cuda.elapsed_ms
        cuda.elapsed_ms = lambda start, end: 2 * ticks(start, end)  # type: ignore[method-assign]
        with twin:
            yield twin, PROOF

    monkeypatch.setattr("mimiq.export.tensorrt.device_times.half_session", half)


@pytest.mark.usefixtures("engine", "twin")
def test_a_bundle_alone_is_held_against_its_network_in_fp16(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path).path
    found = json.loads(bench(bundle, "--json").stdout)
    assert set(found["device"]) == {"device", "device and copies", "device, no CUDA graph"}
    for rows in found["device"].values():
        # Batch 9 is beyond the profile.
        assert [(row["batch"], row["engine"]) for row in rows] == [
            (batch, name) for batch in (1, 8) for name in ("FP16", "bundle")
        ]
        assert {row["p50_ms"] for row in rows} == {1.0, 2.0}
        assert rows[1]["speedup"] == pytest.approx(2)
    assert found["gpu_state"]["before"]["clocks.sm"] == "1980"
    assert found["verdict"] == [
        "Batch 9 is outside of the engines' profile, 1 to 8: end to end it runs in parts or "
        "padded, on the GPU's clock it was left out.",
        "On NVIDIA Fake low precision helped against FP16: speed-up 2.00 at batch 1, 2.00 at "
        "batch 8.",
    ]
    text = bench(bundle).stdout
    assert "Latency, device and copies" in text
    assert "clocks.sm 1980" in text
    assert text.rstrip().endswith("batch 8.")


@pytest.mark.usefixtures("engine")
def test_no_verdict_where_no_fp16_engine_can_be_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def half(bundle: Any, session: Any) -> Iterator[None]:
        raise EnvironmentLacks("onnx-ir is not installed.", "pip install 'mimiq-vit[compile]'")
        yield

    monkeypatch.setattr("mimiq.export.tensorrt.device_times.half_session", half)
    found = json.loads(bench(make_bundle(tmp_path).path, "--json").stdout)
    assert [row["engine"] for row in found["device"]["device"]] == ["bundle", "bundle"]
    assert found["verdict"][1].startswith("No verdict against FP16: onnx-ir is not installed.")


def with_two_engines(folder: Path, kernels: int, kernels_fp8: int) -> Bundle:
    """A bundle with ``engines/engine.plan``, and one for FP8 whose name comes before that."""
    folder.mkdir()
    files = {}
    for name, count in (("engine", kernels), ("engine-fp8", kernels_fp8)):
        plan, record = folder / f"{name}.plan", folder / f"{name}.json"
        plan.write_bytes(b"plan")
        proof = Proof(PlanSummary("plan", 1, kernels=count), (), (), (), ())
        record.write_text(json.dumps({"proof": proof.to_json()}))
        files |= {f"engines/{file.name}": file for file in (plan, record)}
    return add_files(make_bundle(folder), files)


@pytest.mark.usefixtures("engine")
def test_the_verdict_explains_the_engines_that_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = with_two_engines(tmp_path / "a", kernels=9, kernels_fp8=90).path
    other = with_two_engines(tmp_path / "b", kernels=5, kernels_fp8=1).path

    def opened(engine: Engine) -> TensorRTSession:
        session, _, cuda = open_fake(engine.path / "engines")
        ticks, factor = cuda.elapsed_ms, 2 if engine.path == slow else 1
        cuda.elapsed_ms = lambda start, end: factor * ticks(start, end)  # type: ignore[method-assign]
        return session

    monkeypatch.setattr("mimiq.export.tensorrt.device_times.open_engine", opened)
    found = json.loads(bench(slow, "--against", other, "--json").stdout)
    assert found["verdict"][1].startswith("On NVIDIA Fake low precision hurt against")
    assert found["verdict"][2:] == ["It launches 9 kernels, and the reference 5."]


def test_threads_are_refused_where_an_engine_would_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle(tmp_path).path
    answer = bench(bundle, "--backend", "rtx", "--threads", 1, code=BadInput.exit_code)
    assert "--threads is for the CPU" in answer.stderr
    assert "add --backend ort" in answer.stderr
    for runs in (True, False):
        monkeypatch.setattr(
            "mimiq.runtime.tensorrt.selection.can_run", lambda bundle, product, runs=runs: runs
        )
        with open_engine(Engine(bundle, "ort", 1)) as session:
            assert session.backend == "onnxruntime-cpu"
        if runs:
            with pytest.raises(BadInput, match="would run on TensorRT-RTX engines"):
                open_engine(Engine(bundle, "auto", 1))
        else:
            with open_engine(Engine(bundle, "auto", 1)) as session:
                assert session.backend.startswith("onnxruntime")


@pytest.mark.skipif(cuda_driver_present(), reason="this host has an NVIDIA driver and GPU")
@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)
def test_an_engine_without_a_gpu_is_one_error(tmp_path: Path) -> None:
    answer = bench(make_bundle(tmp_path).path, "--backend", "rtx", code=EnvironmentLacks.exit_code)
    assert "No NVIDIA driver and GPU can be used on this host." in answer.stderr
    assert "--backend ort" in answer.stderr
    assert "Traceback" not in answer.stderr
