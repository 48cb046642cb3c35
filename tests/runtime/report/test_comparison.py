"""Bundles side by side: tables, plots, and the one to take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from reports import COMPARISON, HARDWARE, report, row
from runtime_models import manifest_entries, write_linear_classifier

from mimiq.cli import main
from mimiq.config.precision import from_bits
from mimiq.errors import BadInput
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.evaluation.comparison import Accuracy
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.manifest import file_entry, signed_manifest
from mimiq.runtime.report.charts import WIDE
from mimiq.runtime.report.comparison.scatter import Point, front, scatter
from mimiq.runtime.report.report import Size

Make = Callable[..., str]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    model = write_linear_classifier(tmp_path / "linear.onnx")

    def bundle(
        bits: tuple[int, int | None],
        correct: int,
        size: float,
        speed: float | None,
        model_entries: dict[str, Any] | None = None,
        **changes: Any,
    ) -> str:
        """A bundle with so many of 500 right, in MB, so many times as fast; its folder."""
        precision = from_bits(*bits)
        label = precision.label
        rows = [row("fp32", 8, 1.0), row(label, 8, speed)] if speed else []
        found = report(
            precision={"label": label},
            size=Size(round(size * 1e6), 23_000_000),
            accuracy=replace(COMPARISON, accuracy=Accuracy(500, correct, 480)),
            latency=rows,
        )
        entries = manifest_entries(**(model_entries or {})) | {"precision": precision.to_json()}
        folder = tmp_path / f"{(model_entries or {}).get('name', 'linear')}-{label}.mimiq"
        files = {"model.onnx": model}
        return str(write_bundle(folder, files, entries, report=replace(found, **changes)).path)

    return bundle


def compare(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["compare", *arguments])


def compared(*arguments: str) -> dict[str, Any]:
    answer = compare(*arguments, "--json")
    assert answer.exit_code == 0, answer.stderr
    (network,) = json.loads(answer.stdout)["networks"]
    return dict(network)


def test_the_smallest_that_loses_little_is_recommended(make: Make) -> None:
    bundles = make((8, 8), 397, 6.2, 2.0), make((4, 8), 394, 3.5, 1.96), make((4, 4), 350, 3.4, 1.9)
    found = compared(*bundles)
    assert found["recommended"] == "W4A8"
    assert found["sentence"] == (
        "W4A8: 6.6 times smaller than full precision, within 0.6 points of top-1, "
        "2.0 times as fast as full precision, as fast as W8A8 (batch 8)."
    )
    assert "W4A4 is smaller and loses 9.4 points of top-1." in found["reason"]
    assert compared(*bundles, "--within", "0.5")["recommended"] == "W8A8"


def test_what_is_much_slower_is_not_recommended_for_its_size(make: Make) -> None:
    found = compared(make((8, 8), 397, 6.2, 2.4), make((4, None), 396, 3.6, 1.0))
    assert found["recommended"] == "W8A8"
    assert "W4A16 is smaller and 2.4 times slower." in found["reason"]


def test_the_sentence_says_how_much_faster_is_what_loses_more(make: Make) -> None:
    found = compared(make((8, 8), 397, 6.2, 1.5), make((4, 8), 380, 3.5, 3.0))
    assert found["recommended"] == "W8A8"
    assert found["sentence"].endswith("where W4A8 is 2.0 times as fast as this (batch 8).")


def test_where_all_lose_much_the_least_is_taken(make: Make) -> None:
    found = compared(make((5, 5), 300, 4.0, None), make((4, 4), 200, 3.0, None))
    assert (found["recommended"], found["latency"]) == ("W5A5", None)
    assert "every one loses more than 1 point of top-1" in found["reason"]
    assert any("latency cannot be compared" in note for note in found["notes"])


def test_the_dominated_is_named_with_what_beats_it(make: Make) -> None:
    found = compared(make((8, 8), 390, 6.2, 1.5), make((6, 8), 394, 5.0, 1.6))
    assert found["dominated"] == {"W8A8": "W6A8"}


def test_latencies_of_different_hosts_are_not_compared(make: Make) -> None:
    elsewhere = HARDWARE | {"cpu": "Another"}
    found = compared(make((8, 8), 397, 6.2, 2.0), make((4, 8), 397, 3.5, 2.0, hardware=elsewhere))
    assert found["latency"] is None


def test_without_labels_the_estimate_counts(make: Make) -> None:
    def held(error: float) -> dict[str, Any]:
        return {"accuracy": None, "held_out": HeldOut({"synthetic": Cost(40, 39, error, 0.0)})}

    found = compared(
        make((8, 8), 0, 6.2, 2.0, **held(0.02)), make((4, 8), 0, 3.5, 2.0, **held(0.2))
    )
    assert found["recommended"] == "W8A8"
    assert found["sentence"].startswith("W8A8: 3.7 times smaller than full precision, probably")
    assert "estimated" in found["notes"][0]


def test_different_images_are_not_compared(make: Make) -> None:
    found = compared(
        make((8, 8), 397, 6.2, 2.0), make((4, 8), 390, 3.5, 2.0, dataset="other images")
    )
    assert (found["measure"], found["recommended"]) == (None, None)


def test_the_page_and_the_terminal_show_the_same_figures(make: Make, tmp_path: Path) -> None:
    bundles = make((8, 8), 397, 6.2, 2.0), make((4, 8), 394, 3.5, 1.96)
    answer = compare(*bundles, "-o", str(tmp_path / "page.html"))
    assert answer.exit_code == 0, answer.stderr
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    shown = answer.stdout, re.sub("<[^>]*>", "", page)
    for text in ("78.80 % [75.0, 82.2]", "98.0 %", "1.23 %", "3.50 MB", "6.57×", "1.96×"):
        assert all(text in where for where in shown), text
    assert page.count("<svg") == 2 * 2  # against latency and size, for wide windows and narrow ones
    assert "<script" not in page
    refused = compare(*bundles, "-o", str(tmp_path / "page.html"))
    assert refused.exit_code == 2
    assert "--force" in refused.stderr


def test_a_narrow_window_hides_no_more_than_wide_plots(make: Make, tmp_path: Path) -> None:
    bundles = make((8, 8), 397, 6.2, 2.0), make((4, 8), 394, 3.5, 1.96)
    assert compare(*bundles, "-o", str(tmp_path / "page.html")).exit_code == 0
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    hidden = set(re.findall(r"\.(\w+) \{ display: none", page))
    classed = re.findall(r'<(\w+)[^>]* class="([^"]*)"', page)
    assert hidden
    assert {tag for tag, names in classed if hidden & set(names.split())} == {"div"}


def test_a_network_of_one_bundle_is_said_what_it_gives(make: Make) -> None:
    one = {"name": "one", "weights_sha256": "a" * 64}
    two = {"name": "two", "weights_sha256": "b" * 64}
    answer = compare(make((8, 8), 397, 6.2, 2.0, one), make((4, 8), 394, 3.5, 1.9, two), "--json")
    assert answer.exit_code == 0, answer.stderr
    first, second = json.loads(answer.stdout)["networks"]
    assert first["sentence"].endswith("2.0 times as fast as full precision (batch 8).")
    assert (first["recommended"], second["recommended"]) == ("W8A8", "W4A8")


def test_networks_are_compared_each_for_itself(make: Make) -> None:
    bundles = [
        make(bits, 397, 5.0, 2.0, model_entries={"name": name})
        for name in ("one", "two")
        for bits in ((8, 8), (4, 8))
    ]
    answer = compare(*bundles, "--json")
    networks = json.loads(answer.stdout)["networks"]
    assert [(of["model"], len(of["bundles"])) for of in networks] == [("one", 2), ("two", 2)]


def test_one_bundle_is_nothing_to_compare(make: Make) -> None:
    bundle = make((8, 8), 397, 6.2, 2.0)
    answer = compare(bundle, bundle)
    assert answer.exit_code == 2
    assert "nothing to compare" in answer.stderr


def test_grey_is_what_another_beats_in_both() -> None:
    best, cheap, worse = (
        Point("best", 5, 80, 80, 80),
        Point("cheap", 2, 70, 69, 71),
        Point("worse", 6, 79, 79, 79),
    )
    full = Point("full", 9, 90, 90, 90, reference=True)
    assert front([best, cheap, worse, full]) == [cheap, best]
    drawn = scatter([best, cheap, worse, full], "title", axes=("x", "y"), width=WIDE)
    kinds = sorted(part.get("class", "") for part in drawn if part.tag == "circle")
    assert kinds == ["dot", "dot", "dot dominated", "ring"]


def test_names_do_not_cover_each_other() -> None:
    points = [Point(f"W{bits}A8", 5, 80, 80, 80) for bits in range(3, 8)]
    drawn = scatter(points, "title", axes=("x", "y"), width=WIDE)
    places = [float(part.get("y", 0)) for part in drawn if re.fullmatch(r"W\dA8", part.text or "")]
    assert min(abs(a - b) for i, a in enumerate(places) for b in places[:i]) >= 16


WRONG = {
    "heldout.kinds.synthetic.believed": None,
    "heldout.kinds.synthetic.count": -1,
    "heldout.kinds.synthetic.logit_error": ["a"],
    "heldout.kinds": {},
    "accuracy.only_model": "x",
    "accuracy.agreeing": 501,
    "accuracy.accuracy.correct": 2**70,
    "latency.1.batch": {},
    "latency.1.speedup": 0,
    "latency.1.p50_ms": float("nan"),
    "hardware.gpus": "none",
    "notes": [3],
}


@pytest.mark.parametrize("key", WRONG)
def test_an_entry_that_cannot_be_used_is_named(make: Make, key: str) -> None:
    cost = HeldOut({"synthetic": Cost(48, 47, 0.06, 0.01)})
    good, bad = make((4, 8), 394, 3.5, 1.4), make((8, 8), 394, 6.0, 1.5, held_out=cost)
    rewrite(Path(bad), key, WRONG[key])
    named = re.sub(r"\.(\d+)", r"[\1]", key)
    page = str(Path(bad).with_name("page.html"))
    for words in (["compare", good, bad], ["report", bad, "-o", page]):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == BadInput.exit_code, done.output
        assert "report.json cannot be used: " + named in " ".join(done.stderr.split())


def test_what_a_measurement_left_beside_a_bundle_is_read_as_carefully(make: Make) -> None:
    good, bad = make((4, 8), 394, 3.5, 1.4), make((8, 8), 394, 6.0, 1.5)
    entry = {
        "host": {"cpu": None, "instruction_sets": []},
        "threads": 1,
        "created": "",
        "software": {},
        "best": "ort",
        "rows": [],
        "notes": [],
    }
    digest = json.loads(Path(bad, "manifest.json").read_text())["manifest_sha256"]
    content = {"manifest_sha256": digest, "measured": [entry]}
    Path(f"{bad}.tuned.json").write_text(json.dumps(content))
    done = compare(good, bad)
    assert done.exit_code == BadInput.exit_code, done.output
    assert "measured[0].rows is empty" in " ".join(done.stderr.split())


def test_a_long_text_is_cut_on_a_terminal(make: Make) -> None:
    good, bad = make((4, 8), 394, 3.5, 1.4), make((8, 8), 394, 6.0, 1.5)
    rewrite(Path(bad), "latency.1.backend", "b" * 300_000)
    done = compare(good, bad)
    assert done.exit_code == 0, done.stderr
    assert len(done.stdout) < 20_000


def rewrite(folder: Path, key: str, value: object) -> None:
    """Put a value into a bundle's report, and sign the bundle again."""
    file = folder / "report.json"
    data = json.loads(file.read_text())
    *steps, last = (int(step) if step.isdigit() else step for step in key.split("."))
    place = data
    for step in steps:
        place = place[step]
    place[last] = value
    file.write_text(json.dumps(data))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"]["report.json"] = file_entry(file)
    (folder / "manifest.json").write_text(signed_manifest(manifest))
