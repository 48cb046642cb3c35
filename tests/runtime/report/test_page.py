"""The page: whole, well-formed, inert, and with the report's own numbers."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from reports import COMPARISON, report
from runtime_models import MakeBundle, manifest_entries, write_linear_classifier

from mimiq.errors import BadInput
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle
from mimiq.runtime.evaluation.class_changes import ClassChange
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.report.page import page
from mimiq.runtime.report.report import Report, Tuning

VOID = {"meta", "img", "br", "link"}


class Reader(HTMLParser):
    """Collects tags, attributes and text; fails where tags are not nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.words: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def bundle_with(folder: Path, data: Report, **changes: Any) -> Bundle:
    model = write_linear_classifier(folder / "linear.onnx")
    manifest = manifest_entries() | changes
    return write_bundle(folder / "a.mimiq", {"model.onnx": model}, manifest, report=data)


def test_it_shows_what_was_measured(tmp_path: Path) -> None:
    tuning = Tuning(100, 0.5, 0.25, 50, ((0, 0.5), (50, 0.25), (100, 0.3)))
    data = replace(report(), tuning=tuning)
    read = Reader(
        page(bundle_with(tmp_path, data), {"engines/rtx.plan": [("Linears", "49 × int8")]})
    )
    low, high = COMPARISON.drop_interval
    assert "78.80 %" in read.text
    assert f"−0.60 [{-high:+.2f}, {-low:+.2f}]".replace("-", "−") in read.text
    assert "1.50×" in read.text
    assert "3.8× smaller than 23.00 MB" in read.text
    assert "49 × int8" in read.text
    assert "0.2500 at step 50" in read.text
    assert read.tags.count("svg") == 2 * 3  # each for a wide window and for a narrow one


def test_what_a_person_asks_of_it(tmp_path: Path) -> None:
    lost = (ClassChange(1, 25, 24, 20, ((0, 3), (7, 1))),)
    data = replace(
        report(accuracy=replace(COMPARISON, lost=lost)),
        layers={f"blocks.{index}.mlp.fc2": 0.01 / (index + 1) for index in range(20)},
        memory={"int8": 5_000_000, "scales": 20_000, "other": 900_000, "graph": 80_000},
        command="mimiq-compile deit_t --int8 --eval 'my images'",
    )
    data = Report.from_json(json.loads(json.dumps(data.to_json())))
    bundle = bundle_with(tmp_path, data, created="2026-11-29T08:53:00+00:00")
    text = Reader(page(bundle)).text
    assert "29 November 2026, 08:53 UTC" in text
    assert "mimiq-compile deit_t --int8 --eval 'my images'" in text
    assert "24 of 25" in text
    assert "20 of 25" in text
    assert "class 0 (3), class 7 (1)" in text or f"{bundle.labels[0]} (3)" in text  # type: ignore[index]
    assert "blocks.0.mlp.fc2\n1 %" in text
    assert "the 12 worst of 20" in text
    assert "weights in INT8\n5,000,000\n83.3 %" in text


def test_every_colour_of_text_can_be_read() -> None:
    """WCAG's contrast of 4.5, in light and in dark."""
    style = files("mimiq.runtime.report").joinpath("page.css").read_text("utf-8")
    pairs = re.findall(r"--(\w+): light-dark\((#\w{6}), (#\w{6})\)", style)
    colours = {name: (light, dark) for name, light, dark in pairs}
    for mode in (0, 1):
        for behind in ("paper", "tile"):
            for name in ("ink", "quiet", "accent", "warn"):
                assert contrast(colours[name][mode], colours[behind][mode]) >= 4.5, (name, behind)
    assert set(re.findall(r"#\w{6}", style)) == {one for pair in colours.values() for one in pair}


def contrast(first: str, second: str) -> float:
    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def test_a_network_of_one_output_is_measured_in_its_own_words(tmp_path: Path) -> None:
    binary = replace(COMPARISON, probability_difference=0.0123)
    kinds = {"images": Cost(48, 47, 0.06, 0.01, probability_difference=0.0234)}
    data = replace(report(), accuracy=binary, simulation=binary, held_out=HeldOut(kinds))
    text = Reader(page(bundle_with(tmp_path, data), {})).text
    assert "right at the threshold 0.5" in text
    assert "Points of right answers against full precision" in text
    assert "is on the same side of 0.5 as" in text
    assert "0.0123" in text
    assert "differs by 0.0234" in text
    assert "top-1" not in text
    assert "top-5" not in text


def test_the_cost_without_labels_is_there_by_kind(tmp_path: Path) -> None:
    kinds = {"synthetic": Cost(48, 47, 0.06, 0.01), "scenes": Cost(48, 36, 0.08, 0.03)}
    found = HeldOut(kinds)
    data = replace(report(), held_out=found, accuracy=None)
    text = Reader(page(bundle_with(tmp_path, data), {})).text
    assert "97.9 %" in text
    assert "75.0 %" in text
    assert "8.00 %" in text
    assert f"{found.points:.1f}\npoints of top-1, estimated without labels on 96" in text


def test_without_measurements_it_has_the_rest(make_bundle: MakeBundle) -> None:
    read = Reader(page(make_bundle()))
    assert "How it was made" in read.text
    assert "svg" not in read.tags
    assert "No TensorRT engine has been built." in read.text


def test_untrained_weights_are_called_so(tmp_path: Path) -> None:
    model = manifest_entries()["model"] | {"untrained": True}
    read = Reader(page(bundle_with(tmp_path, report(), model=model)))
    assert "UNTRAINED" in read.text


def test_what_was_raised_is_listed(tmp_path: Path) -> None:
    raised = {
        "note": "Raised for `max_drop=1`: blocks.0.mlp.fc2.",
        "units": [{"name": "blocks.0.mlp.fc2", "now": "w4a8", "raised": "w8a8", "gain": 0.1}],
    }
    read = Reader(page(bundle_with(tmp_path, report(), raised=raised)))
    assert "w4a8 → w8a8" in read.text
    assert "max_drop=1" in read.words
    assert "`" not in read.text


def test_nothing_of_a_bundle_runs_or_loads(tmp_path: Path) -> None:
    hostile = "</style><script src='http://there/x.js'>alert(1)</script><img src=x onerror=y>&\"'"
    model = manifest_entries()["model"] | {"name": hostile, "architecture": hostile}
    data = report(notes=[hostile], dataset=hostile)
    text = page(
        bundle_with(tmp_path, data, model=model), {hostile: [(hostile, hostile)]}, sheet=b"jpeg"
    )
    read = Reader(text)
    assert hostile in read.text
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    assert read.tags.count("img") == 1
    names = {name for name, _ in read.attributes}
    assert not any(name.startswith("on") for name in names)
    sources = [value for name, value in read.attributes if name in ("src", "href")]
    assert sources == ["data:image/jpeg;base64,anBlZw=="]
    assert "default-src 'none'" in text


@pytest.mark.parametrize(
    "broken",
    [
        {"accuracy": {"count": 3}},
        {"accuracy": "none"},
        {"latency": [{"engine": "fp32"}]},
        {"size": {"bytes": "many", "reference_bytes": 3}},
        {"tuning": {"steps": 3, "history": []}},
        {"format": "mimiq-report/9"},
    ],
)
def test_a_broken_report_is_named(tmp_path: Path, broken: dict[str, Any]) -> None:
    bundle = bundle_with(tmp_path, report())
    file = tmp_path / "report.json"
    file.write_text(json.dumps(report().to_json() | broken))
    bundle = add_files(bundle, {"report.json": file})
    with pytest.raises(BadInput, match=re.escape(str(bundle.path / "report.json"))):
        page(bundle)
