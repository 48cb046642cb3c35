"""The stages on their own, as commands: each does its work and prints what it found."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from compiled import INT8, Compile
from PIL import Image

from mimiq.cli import main
from mimiq.errors import BadInput, CheckFailed, UnsupportedTarget
from mimiq.models.digits import digits_heldout
from mimiq.runtime.latency.measure import Engine, Runner
from mimiq.runtime.tensorrt.lane import Tensors
from mimiq.runtime.tensorrt.products import RTX
from mimiq.runtime.tensorrt.session import TensorRTSession

SMALL = ["--images", "8", "--recipe", "tiny", "--quiet"]


def call(*arguments: object, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert answer.exit_code == exit_code, answer.output
    return answer


def answer_of(*arguments: object) -> dict[str, Any]:
    """Standard output as JSON: nothing else may be on it."""
    found: dict[str, Any] = json.loads(call(*arguments, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def heldout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first 40 held-out images as files, with a val.txt."""
    folder = tmp_path_factory.mktemp("heldout")
    lines = []
    for index, (pixels, label) in enumerate(zip(*digits_heldout(), strict=True)):
        if index < 40:
            Image.fromarray(pixels).save(folder / f"{index:02}.png")
            lines.append(f"{index:02}.png {label}\n")
    (folder / "val.txt").write_text("".join(lines))
    return folder


class TestMaking:
    def test_synthesize_then_distill_then_export(self, tmp_path: Path) -> None:
        made = answer_of("synthesize", "digits", *SMALL, "-o", tmp_path / "set")
        assert made["manifest"]["count"] == 8
        assert made["manifest"]["kind"] == "synthetic"

        tuned = answer_of(
            *("distill", "digits", "--bits", "w4a4", "--calibration", tmp_path / "set"),
            *("--steps", 2, "--quiet", "-o", tmp_path / "tuned"),
        )
        assert tuned["precision"]["label"] == "w4a4"
        assert tuned["tuning"]["result"]["steps"] == 2
        assert tuned["metadata"]["mimiq.calibration_sha256"] == made["sha256"]

        (tmp_path / "tuned" / "notes.md").write_text("what we found")
        again = ("distill", "digits", "--force", "-o", tmp_path / "tuned")
        said = call(*again, exit_code=BadInput.exit_code).stderr
        assert "notes.md, which mimiq did not write" in said

        graphs = {}
        for target in ("ort", "rtx"):
            out = tmp_path / f"{target}.onnx"
            found = answer_of(
                *("export", "digits", "--from", tmp_path / "tuned", "--target", target),
                *("--quiet", "-o", out),
            )
            graphs[target] = found["graph"]
            assert found["int4_as_int8"] == (target == "rtx")
            assert out.stat().st_size == found["graph"]["file_bytes"]
            runtimes = "any" if target == "ort" else "TensorRT, TensorRT-RTX"
            assert found["graph"]["metadata"] == tuned["metadata"] | {"mimiq.runtimes": runtimes}
            assert found["graph"]["attention"] == {"quantised": 4}
        linears = [sum(layers.values()) for layers in (g["layers"] for g in graphs.values())]
        assert linears == [18, 18]
        assert graphs["rtx"]["layers"] != graphs["ort"]["layers"]

    def test_export_calibrates_where_nothing_was_distilled(self, tmp_path: Path) -> None:
        out = tmp_path / "direct.onnx"
        flags = ["--int8", "--calibration", "noise", "--images", "4", "--steps", "0", "--quiet"]
        found = answer_of("export", "digits", *flags, "-o", out)
        assert found["graph"]["layers"]["MatMul int8 per channel × int8"] == 17
        call("export", "digits", *flags, "-o", out, exit_code=BadInput.exit_code)
        call("export", "digits", *flags, "-o", out, "--force")

    @pytest.mark.parametrize(
        ("flags", "said"),
        [
            (["--int8"], "--from brings its own precision"),
            (["--calibration", "noise"], "calibrated and tuned"),
            (["--steps", "5"], "calibrated and tuned"),
            (["--seed", "0"], "calibrated and tuned"),
        ],
    )
    def test_a_distilled_folder_brings_all_that_it_was_made_of(
        self, tmp_path: Path, flags: list[str], said: str
    ) -> None:
        command = ["export", "digits", "--from", tmp_path, *flags]
        assert said in call(*command, exit_code=BadInput.exit_code).stderr

    def test_a_set_is_not_made_twice(self, tmp_path: Path) -> None:
        command = ["synthesize", "digits", "--method", "noise", *SMALL, "-o", tmp_path / "set"]
        call(*command)
        shard = tmp_path / "set" / "batch-00000.npz"
        made = shard.stat().st_mtime_ns
        call(*command)
        assert shard.stat().st_mtime_ns == made
        said = call(*command, "--seed", 1, exit_code=BadInput.exit_code).stderr
        assert "holds another calibration set" in said


class Timed(TensorRTSession):
    """An engine that is not there, as far as it is asked of its times."""

    def __init__(self, bundle: Path, slow: int) -> None:
        self.path = bundle / "engines" / "no-such.plan"
        self.product, self.backend, self.slow = RTX, RTX.label, slow
        self.tensors = Tensors("images", "logits", (3, 32, 32), 10, 1, 4, 0)


@pytest.mark.slow
class TestMeasuring:
    def test_eval_of_files(self, compile_digits: Compile, heldout: Path) -> None:
        bundle = compile_digits(*INT8).path
        found = answer_of("eval", bundle, heldout, "--backend", "ort")
        assert found["accuracy"]["count"] == 40
        assert found["accuracy"]["top1"] >= 90
        assert found["backend"] == "onnxruntime-cpu"
        assert answer_of("eval", bundle, heldout, "--eval-limit", 10)["accuracy"]["count"] == 10
        table = call("eval", bundle, heldout, "--backend", "ort").stdout
        assert f"{found['accuracy']['top1']:.2f} %" in table
        assert "40" in table

    def test_eval_on_the_packed_images(self, compile_digits: Compile) -> None:
        compiled = compile_digits(*INT8)
        found = answer_of("eval", compiled.path, "--backend", "ort")
        assert found["accuracy"]["correct"] == compiled.result["accuracy"]["accuracy"]["correct"]

    def test_eval_against_another_backend(self, compile_digits: Compile, heldout: Path) -> None:
        bundle = compile_digits(*INT8).path
        found = answer_of("eval", bundle, heldout, "--backend", "ort", "--against", "ort")
        assert found["comparison"]["agreement"] == 1

        flags = ["--backend", "ort", "--against", "null", "--batch-size", 40]
        answer = call("eval", bundle, heldout, *flags, exit_code=CheckFailed.exit_code)
        assert "99.50% were asked for" in answer.stderr
        call("eval", bundle, heldout, *flags, "--min-agreement", 0)

    def test_bench_alone_and_against_another(self, compile_digits: Compile) -> None:
        bundle = compile_digits(*INT8).path
        flags = ["--batches", "1,2", "--seconds", "0.1", "--backend", "ort"]
        found = answer_of("bench", bundle, *flags)
        assert [row["batch"] for row in found["latency"]] == [1, 2]
        table = call("bench", bundle, *flags, "--against", bundle / "model.onnx").stdout
        assert "speed against model.onnx" in table

    def test_bench_on_the_gpu_s_own_clock(
        self, compile_digits: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Two engines take turns; what a session and the GPU do is put in their place."""
        ours = compile_digits(*INT8).path
        other = tmp_path / "other.mimiq"
        other.symlink_to(ours)
        counted: list[dict[str, bool]] = []

        @contextlib.contextmanager
        def opened(engine: Engine) -> Iterator[Timed]:
            yield Timed(engine.path, slow=2 if engine.path == other else 1)

        def runner(session: Timed, **options: bool) -> Runner:
            counted.append(options)
            return lambda batch, runs: [0.001 * batch * session.slow] * runs

        monkeypatch.setattr("mimiq.export.tensorrt.device_times.open_engine", opened)
        monkeypatch.setattr("mimiq.export.tensorrt.device_times.device_runner", runner)
        flags = ["--against", other, "--batches", "1,4,8", "--seconds", "0.1"]
        found = answer_of("bench", ours, "--backend", "ort", *flags)
        assert counted == [{}, {}, *[{"copies": True}] * 2, *[{"cuda_graphs": False}] * 2]
        rows = found["device"]["device"]
        assert [(row["batch"], row["engine"]) for row in rows] == [
            (1, other.name), (1, ours.name), (4, other.name), (4, ours.name)
        ]  # fmt: skip
        assert rows[1]["speedup"] == pytest.approx(2)
        assert "Batch 8 is outside of the engines' profile, 1 to 4" in found["verdict"][0]
        assert "low precision helped against other.mimiq: speed-up 2.00" in found["verdict"][1]

    def test_bench_against_nothing(self, compile_digits: Compile, tmp_path: Path) -> None:
        bundle = compile_digits(*INT8).path
        answer = call(
            *("bench", bundle, "--against", tmp_path / "none"), exit_code=BadInput.exit_code
        )
        assert "does not exist" in answer.stderr


@pytest.mark.slow
class TestInspecting:
    def test_a_bundle(self, compile_digits: Compile) -> None:
        compiled = compile_digits(*INT8)
        found = answer_of("inspect", compiled.path)
        assert found["manifest"]["precision"]["label"] == "w8a8"
        assert found["graphs"]["model.onnx"]["attention"] == {"quantised": 4}
        table = call("inspect", compiled.path).stdout
        assert "17 ×  MatMul int8 per channel × int8" in table
        if compiled.result["engine"] is not None:
            name = compiled.result["engine"]["engine"]
            assert found["engines"][name] == compiled.result["engine"]["proof"]
            assert "17 × int8" in table

    def test_a_graph(self, compile_digits: Compile) -> None:
        file = compile_digits(*INT8).path / "model.onnx"
        assert answer_of("inspect", file)["graph"]["file_bytes"] == file.stat().st_size
        assert "mimiq.config.precision" in call("inspect", file).stdout


@pytest.mark.slow
class TestBuilding:
    @pytest.fixture
    def bundle(self, compile_digits: Compile, tmp_path: Path) -> Path:
        pytest.importorskip("tensorrt_rtx", reason="needs the extra 'rtx'")
        copy = tmp_path / "copy.mimiq"
        shutil.copytree(compile_digits(*INT8).path, copy)
        return copy

    def test_an_engine_for_named_gpus(self, bundle: Path) -> None:
        found = answer_of(
            *("build", bundle, "--target", "rtx", "--compute-capabilities", "8.6,8.9"),
            *("--profile", "1,2,4", "--quiet"),
        )
        assert found["engine"] == "engines/rtx-sm86-sm89.plan"
        assert found["record"]["batches"] == [1, 2, 4]
        assert (bundle / found["engine"]).stat().st_size == found["record"]["plan_bytes"]
        assert found["engine"] in answer_of("inspect", bundle)["engines"]

    def test_a_profile_that_is_none(self, bundle: Path) -> None:
        arguments = ["build", bundle, "--target", "rtx", "--profile", "8,2,1"]
        assert "not an optimisation profile" in call(*arguments, exit_code=2).stderr

    def test_lost_precision_is_an_error_that_names_the_bundle(
        self, bundle: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """As the last stage of the compiler: the bundle is there, the engine is not."""
        from mimiq.export.tensorrt import engines
        from mimiq.progress import Progress
        from mimiq.runtime import Bundle
        from mimiq.spec import EngineSpec
        from mimiq.stages.engine import add_engine

        def lost(*_: object, **__: object) -> None:
            raise UnsupportedTarget("The engine lost low precision.", "Change the graph.")

        monkeypatch.setattr(engines, "require_precision", lost)
        with pytest.raises(UnsupportedTarget) as caught:
            add_engine(Bundle(bundle), EngineSpec("rtx"), Progress())
        assert "is complete but for this engine" in caught.value.next_step
        assert "mimiq build" in caught.value.next_step

    def test_accepted_fallbacks_stand_in_the_report(self, bundle: Path) -> None:
        from mimiq.export.tensorrt.engines import build_for_bundle
        from mimiq.export.tensorrt.proof import Fallback
        from mimiq.runtime import Bundle
        from mimiq.stages.engine import with_fallbacks

        built = build_for_bundle(Bundle(bundle), "rtx")
        assert with_fallbacks(built.bundle, built) is built.bundle
        lost = replace(built.proof, fallbacks=(Fallback("head", "int8", "half", "no Q/DQ"),))
        written = with_fallbacks(built.bundle, replace(built, proof=lost))
        assert written.report is not None
        (line,) = written.report.fallbacks
        assert line == "engines/rtx.plan: head: wanted int8, runs as half (no Q/DQ)"

    def test_onnx_runtime_needs_none(self, bundle: Path) -> None:
        arguments = ["build", bundle, "--target", "ort"]
        assert "needs no engine" in call(*arguments, exit_code=2).stderr
