"""The fastest backend of a CPU: measured, written beside the bundle, and taken by ``auto``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from runtime_models import SIZE, MakeBundle

from mimiq.cli import main
from mimiq.errors import BadInput, DidNotStart
from mimiq.runtime import Bundle, Report, open_bundle
from mimiq.runtime.backend import Lack
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.latency import tuned
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.latency.tune import UNQUANTIZED, choose, left_out, sentences
from mimiq.runtime.latency.tuned import Host, Measured
from mimiq.runtime.null import Null
from mimiq.runtime.onnxruntime.backend import ORT
from mimiq.runtime.openvino.backend import OpenVINO
from mimiq.runtime.openvino.networks import Refused
from mimiq.runtime.report.page import page

TITLES = {"ort": "ONNX Runtime on the CPU", "openvino": "OpenVINO on the CPU"}


def row(engine: str, batch: int, speed: float) -> LatencyRow:
    return LatencyRow(engine, "cpu", batch, 1.0, 1.0, 1.0, 1000.0, speed, (speed, speed), 100, True)


def measured(best: str = "openvino", threads: int = 1, host: Host | None = None) -> Measured:
    here = host or Host.here()
    return Measured(
        here, threads, "2026-11-29", {"numpy": "2"}, best, (row("ort", 1, 1.0),), ("It was warm.",)
    )


def test_what_is_as_fast_is_decided_by_the_order() -> None:
    rows = [row("ort", 1, 2.0), row("openvino", 1, 2.03), row("ort", 8, 2.0)]
    assert choose([*rows, row("openvino", 8, 2.01)], ["ort", "openvino"]) == "ort"
    assert choose([*rows, row("openvino", 8, 2.5)], ["ort", "openvino"]) == "openvino"


def test_sentences_say_where_no_quantisation_is_as_fast() -> None:
    rows = [
        *(row("ort" + UNQUANTIZED, batch, 1.0) for batch in (1, 8)),
        *(row("openvino" + UNQUANTIZED, batch, 2.0 if batch == 1 else 3.1) for batch in (1, 8)),
        *(row("ort", batch, 1.5) for batch in (1, 8)),
        *(row("openvino", batch, 3.0) for batch in (1, 8)),
    ]
    first, second = sentences(rows, "openvino", TITLES)
    assert first == (
        "OpenVINO on the CPU is 2.00 and 2.00 times as fast as ONNX Runtime on the CPU at batch 1 "
        "and 8."
    )
    assert second.startswith("At batch 8 the network without quantisation is as fast ")
    assert len(sentences(rows[4:], "openvino", TITLES)) == 1


def test_it_is_kept_beside_the_bundle_by_host_and_threads(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    assert tuned.read(bundle) == ()
    assert tuned.fastest(bundle) is None
    for found in (measured("ort"), measured("openvino", 2), measured("openvino")):
        place = tuned.keep(bundle, found)
    assert place == bundle.path.with_name(f"{bundle.path.name}.tuned.json")
    assert tuned.read(bundle) == (measured("openvino", 2), measured("openvino"))
    assert Bundle(bundle.path).digest == bundle.digest

    elsewhere = Host("another CPU", ("avx2",))
    tuned.keep(bundle, measured("ort", 1, elsewhere))
    assert tuned.fastest(bundle, threads=1) == "openvino"
    assert tuned.fastest(bundle, threads=7) == "openvino"
    # Another CPU with the same instructions tells more than none; one with others does not.
    assert tuned.fastest(bundle, replace(elsewhere, cpu="a third")) == "ort"
    assert tuned.fastest(bundle, Host("a third", ("avx2", "avx512f"))) is None


def test_the_report_shows_it(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    assert "Fastest backend" not in page(bundle)
    tuned.keep(bundle, measured())
    text = page(bundle)
    assert "Fastest backend" in text
    assert "1 thread: openvino is the fastest" in text
    assert "It was warm." in text


def test_that_of_another_bundle_does_not_tell(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    tuned.keep(bundle, measured())
    again = add_files(bundle, updates={"seed": 7})
    assert tuned.place_of(again) == tuned.place_of(bundle)
    assert tuned.fastest(again) is None


def test_a_broken_file_is_named_and_does_not_keep_a_bundle_from_opening(
    make_bundle: MakeBundle,
) -> None:
    bundle = make_bundle()
    tuned.place_of(bundle).write_text("{")
    with pytest.raises(BadInput, match=r"tuned\.json does not say what was measured"):
        tuned.read(bundle)
    with open_bundle(bundle) as session:
        assert session.backend == "onnxruntime-cpu"
    tuned.keep(bundle, measured())
    assert tuned.fastest(bundle) == "openvino"


def test_auto_takes_it_and_falls_back(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    bundle = make_bundle()
    tuned.keep(bundle, measured())
    with open_bundle(bundle) as session:
        assert session.backend == "openvino-cpu"
    with open_bundle(bundle, spinning=False) as session:  # which OpenVINO does not take
        assert session.backend == "onnxruntime-cpu"
    with open_bundle(bundle, "ort") as session:
        assert session.backend == "onnxruntime-cpu"

    def refuse(*_: object, **__: object) -> None:
        raise Refused("This release lacks an operator.", "Update openvino.")

    with monkeypatch.context() as patch:
        patch.setattr("mimiq.runtime.openvino.session.OpenVINOSession", refuse)
        with pytest.raises(DidNotStart, match="lacks an operator"):
            open_bundle(bundle, "openvino")
        with open_bundle(bundle) as session:
            assert session.backend == "onnxruntime-cpu"
    monkeypatch.setattr(OpenVINO, "why_not", lambda _: "It is gone.")
    with open_bundle(bundle) as session:
        assert session.run(np.zeros((1, 3, SIZE, SIZE), np.float32)).shape == (1, 10)
        assert session.backend == "onnxruntime-cpu"


def test_who_does_not_start_or_answers_otherwise_is_left_out(make_bundle: MakeBundle) -> None:
    cost = Cost(count=100, agreeing=100, logit_error=0.001, believed=0.0)
    bundle = add_files(make_bundle(), report=Report(held_out=HeldOut({"scenes": cost})))
    with open_bundle(bundle, "ort", threads=1) as session:

        def scaled(name: str, scale: float) -> Null:
            return Null(lambda images, _: scale * session.run(images), name=name, title=name)

        gone = Null(lack=Lack("It is gone."), name="gone", title="Gone")
        found = left_out(bundle, [ORT, scaled("like", 1.01), scaled("unlike", 1.2), gone], 1)
    assert list(found) == ["gone", "unlike"]
    assert found["gone"] == "Gone is left out: It is gone."
    assert "unlike is left out: its logits differ from ONNX Runtime's by " in found["unlike"]
    assert "explains 0.20%" in found["unlike"]


def test_the_command_measures_and_writes_it_down(make_bundle: MakeBundle) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    bundle = make_bundle(quantized=True)
    flags = ["--tune", "--threads", "1", "--batches", "1", "--seconds", "0.1", "--quiet"]
    answer = CliRunner().invoke(main, ["bench", str(bundle.path), *flags, "--json"])
    assert answer.exit_code == 0, answer.output
    found = json.loads(answer.stdout)
    plain = [f"{name}{UNQUANTIZED}" for name in TITLES]
    assert [entry["engine"] for entry in found["rows"]] == [*plain, *TITLES]
    assert found["best"] in TITLES
    assert [m.best for m in tuned.read(bundle)] == [found["best"]]
    assert "openvino" in found["software"]

    answer = CliRunner().invoke(main, ["bench", str(bundle.path), "--tune", "--backend", "ort"])
    assert answer.exit_code == BadInput.exit_code
    assert "--tune compares all backends" in answer.stderr
