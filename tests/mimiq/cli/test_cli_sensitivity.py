"""``mimiq sensitivity``, ``--max-drop`` and ``--size-budget`` on the embedded model."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from safetensors.torch import load_file, save_file

import mimiq.stages.images
import mimiq.stages.promotion
import mimiq.stages.ranking
import mimiq.stages.sensitivity
from mimiq.cli import compile_main, main
from mimiq.errors import BadInput, CheckFailed
from mimiq.models.digits import FOLDER, WEIGHTS_FILE
from mimiq.runtime.bundle import MANIFEST, Bundle
from mimiq.runtime.manifest import signed_manifest
from mimiq.spec import Job
from mimiq.stages.budget import Drop

# Noise is there at once, and as good as anything for what is looked at here.
CHEAP = ["--bits", "w2a4", "--calibration", "noise", "--images", "16", "--quiet"]
COMPILE = [*CHEAP, "--steps", "0", "--no-bench", "--target", "ort"]


def call(*arguments: object, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert answer.exit_code == exit_code, answer.output
    return answer


def compiled(out: Path, *flags: str, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(compile_main, ["digits", *COMPILE, *flags, "-o", str(out)])
    assert answer.exit_code == exit_code, answer.output
    return answer


@pytest.fixture(scope="module")
def ranking() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(call("sensitivity", "digits", *CHEAP, "--json").stdout)
    return found


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """As many units at 8 bits as this share of full precision holds."""
    out = tmp_path_factory.mktemp("bundles") / "small.mimiq"
    compiled(out, "--size-budget", "0.22x")
    return Bundle(out)


class TestSensitivity:
    def test_every_unit_by_gain(self, ranking: dict[str, Any]) -> None:
        units = ranking["units"]
        assert len(units) == 4 * 5 + 2
        assert ranking["images"] == 14  # of 16 two are held out
        gains = [unit["gain"] for unit in units]
        assert gains == sorted(gains, reverse=True)
        assert ranking["loss"] > ranking["raised_loss"] > 0
        assert {unit["now"] for unit in units} == {"w2a4", "a4", "w8a16", "w8a8"}

    def test_a_second_run_is_cached(
        self, ranking: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def again(*_: object, **__: object) -> None:
            raise AssertionError("measured twice")

        monkeypatch.setattr(mimiq.stages.ranking, "rank", again)
        answer = call("sensitivity", "digits", *CHEAP[:-1], "--json")
        assert json.loads(answer.stdout) == ranking
        assert "sensitivity: reusing" in answer.stderr

    def test_as_a_table(self, ranking: dict[str, Any]) -> None:
        text = call("sensitivity", "digits", *CHEAP, "--limit", 3).stdout
        first = ranking["units"][0]
        (row,) = (line for line in text.splitlines() if line.startswith(f"{first['name']} "))
        assert first["raised"] in row
        assert ranking["units"][3]["name"] + " " not in text
        assert "and 19 more" in text
        again = "mimiq-compile digits --bits w2a4 --images 16 --calibration noise --max-drop 1"
        assert again in " ".join(text.split())

    @pytest.mark.slow
    def test_of_a_bundle(self, small: Bundle) -> None:
        found = json.loads(call("sensitivity", small.path, "--quiet", "--json").stdout)
        raised = {unit["name"] for unit in small.manifest["raised"]["units"]}
        labels = {unit["name"]: unit["raised"] for unit in found["units"]}
        assert found["precision"] == small.manifest["precision"]
        assert raised
        eight = {"patch_embed.proj", "head"}  # without being raised
        assert all((labels[name] == "float") == (name in raised) for name in labels.keys() - eight)

    @pytest.mark.slow
    def test_a_bundle_brings_its_precision(self, small: Bundle) -> None:
        answer = call("sensitivity", small.path, "--int8", exit_code=BadInput.exit_code)
        assert "A bundle brings its own precision" in answer.stderr

    @pytest.mark.slow
    def test_of_a_bundle_whose_weights_are_gone(self, small: Bundle, tmp_path: Path) -> None:
        weights = load_file(FOLDER / WEIGHTS_FILE)
        weights["head.bias"] = weights["head.bias"] + 1
        save_file(weights, tmp_path / "other.safetensors")
        flags = ["--weights", tmp_path / "other.safetensors"]
        answer = call("sensitivity", small.path, *flags, exit_code=BadInput.exit_code)
        assert "was made from other weights" in answer.stderr


def test_a_bundle_is_measured_on_images_made_as_its_own_were(
    small: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = tmp_path / "copied.mimiq"
    shutil.copytree(small.path, copied)
    manifest = json.loads((copied / MANIFEST).read_text())
    manifest["preprocessing"]["mean"] = [0.4, 0.5, 0.6]
    manifest["seed"] = 7
    (copied / MANIFEST).write_text(signed_manifest(manifest))
    jobs: list[Job] = []

    def spy(job: Job, *_: object) -> None:
        jobs.append(job)
        raise BadInput("Seen.", "Go on.")

    monkeypatch.setattr(mimiq.stages.images, "calibration_set", spy)
    for seed in ([], ["--seed", "0"]):
        call("sensitivity", copied, *seed, exit_code=BadInput.exit_code)
    assert [job.model.preprocessing.mean for job in jobs] == [(0.4, 0.5, 0.6)] * 2
    assert [job.seed for job in jobs] == [7, 0]


@pytest.mark.slow
class TestBudgets:
    def test_the_file_keeps_to_its_size(self, small: Bundle, ranking: dict[str, Any]) -> None:
        record = small.manifest["raised"]
        predicted, limit = record["size"]
        actual = small.model_path.stat().st_size
        assert actual <= limit
        assert actual == pytest.approx(predicted, rel=0.01)
        names = {unit["name"] for unit in record["units"]}
        left = [unit for unit in ranking["units"] if unit["name"] not in names]
        left = [unit for unit in left if unit["gain"] > 0 and unit["raised"] != "float"]
        assert left
        assert all(unit["extra_bytes"] > limit - predicted for unit in left)

    def test_the_manifest_and_the_report_say_what_and_why(self, small: Bundle) -> None:
        assert small.report is not None
        first = small.manifest["raised"]["units"][0]
        (note,) = (text for text in small.report.notes if text.startswith("Raised for"))
        assert note.startswith(f"Raised for `size_budget=0.22x`: {first['name']} (")
        overrides = small.manifest["precision"]["overrides"]
        assert len(overrides) > 1  # the first layer's is always there

    def test_raised_layers_are_in_the_graph(self, small: Bundle) -> None:
        found = json.loads(call("inspect", small.path, "--json").stdout)
        graph = found["graphs"]["model.onnx"]
        layers = [u for u in small.manifest["raised"]["units"] if u["kind"] == "layer"]
        kinds = {kind: count for kind, count in graph["layers"].items() if "int4" not in kind}
        assert sum(kinds.values()) == len(layers) + 2  # patch embedding and classifier
        assert graph["attention"] == {"quantised": 4}

    def test_the_drop_is_met_and_measured(self, tmp_path: Path) -> None:
        quick = ["--recipe", "paper"]  # fits nothing
        compiled(tmp_path / "out.mimiq", "--max-drop", "100", *quick)
        record = Bundle(tmp_path / "out.mimiq").manifest["raised"]
        assert record["units"] == []
        (first,) = record["tries"]
        assert 0 < first["points"] < 100

        wanted = first["points"] / 4
        compiled(tmp_path / "less.mimiq", "--max-drop", f"{wanted:.3f}", *quick)
        record = Bundle(tmp_path / "less.mimiq").manifest["raised"]
        assert record["tries"][0] == first
        assert record["tries"][-1]["points"] <= wanted
        assert len(record["units"]) == record["tries"][-1]["raised"] > 0

    def test_a_drop_that_cannot_be_met(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def poor(_: object, folder: Path, __: object) -> None:
            (folder / "drop.json").write_text(json.dumps(asdict(Drop(3.2, 0.94, 96))))

        monkeypatch.setattr(mimiq.stages.promotion.EstimateDrop, "make", poor)
        monkeypatch.setenv("MIMIQ_CACHE", str(tmp_path / "cache"))
        out = tmp_path / "out.mimiq"
        quick = ["--recipe", "paper"]  # fits nothing, and every unit is tried
        said = compiled(out, "--max-drop", "1", *quick, exit_code=CheckFailed.exit_code).stderr
        assert "--max-drop 1 cannot be met from w2a4" in said
        assert "3.20 points are lost" in said
        assert not out.exists()


@pytest.mark.parametrize(
    ("flags", "problem"),
    [
        (["--max-drop", "-1"], "'--max-drop': -1.0 is not in the range 0<=x<=100"),
        (["--max-drop", "nan"], "'--max-drop': nan is not a finite number"),
        (["--size-budget", "big"], "--size-budget big is no size"),
        (["--size-budget", "-4MB"], "is no size"),
    ],
)
def test_what_is_no_budget_is_refused_at_once(
    flags: list[str], problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a slow stage was reached")

    monkeypatch.setattr(mimiq.stages.sensitivity, "rank", reached)
    said = compiled(tmp_path / "out.mimiq", *flags, exit_code=BadInput.exit_code).stderr
    assert said.startswith("error: ")
    assert problem in said


def test_a_size_below_the_smallest(tmp_path: Path) -> None:
    flags = ["--size-budget", "100kB"]
    said = compiled(tmp_path / "out.mimiq", *flags, exit_code=BadInput.exit_code).stderr
    assert "--size-budget 100kB (0.10 MB) is too small" in said
    assert "MB or more" in said
    assert not (tmp_path / "out.mimiq").exists()
