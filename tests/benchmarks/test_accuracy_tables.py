"""Results of benchmarks/accuracy.py: intervals over seeds, files that go on and are joined."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accuracy_networks import parse_networks
from accuracy_results import merged, opened, write
from accuracy_tables import paired_mean, table

from mimiq.errors import BadInput
from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.evaluation.intervals import paired_difference

COUNT = 200
ASKED: dict[str, Any] = {
    "networks": {
        "one": {"weights_sha256": "1", "images_of": "one"},
        "two": {"weights_sha256": "2", "images_of": "one"},
    },
    "recipe": "cpu",
    "scale": "",
    "evaluation": {"sources": ["a", "b"], "count": COUNT, "sha256": "0"},
}


def row(lost: int, gained: int, error: float, estimate: float | None = None) -> dict[str, Any]:
    """A row that lost the first images and gained the last ones, of 150 that were right."""
    comparison = Comparison(
        accuracy=Accuracy(COUNT, 150 - lost + gained, 190),
        reference=Accuracy(COUNT, 150, 190),
        agreeing=COUNT - lost - gained,
        only_model=gained,
        only_reference=lost,
        max_logit_difference=1.0,
        mean_logit_difference=0.1,
        logit_error=error,
    ).to_json()
    return {
        "calibration": {"kind": "synthetic", "count": 192},
        "accuracy": comparison,
        "changed": {
            "lost": " ".join(map(str, range(lost))),
            "gained": " ".join(map(str, range(COUNT - gained, COUNT))),
        },
        "heldout": None
        if estimate is None
        else HeldOut({"scenes": Cost(96, 84, 0.0625, estimate / 50 - 0.0125)}).to_json(),
        "distillation": {"steps": 0},
        "host": {"device": "a CPU", "instruction_sets": ["avx2", "avx512f"], "torch": "2"},
    }


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("| ").split("|")]


def test_one_seed_gives_the_paired_interval() -> None:
    changes = np.zeros(COUNT)
    changes[:9], changes[-4:] = 1, -1
    assert paired_mean(changes) == pytest.approx(paired_difference(9, 4, COUNT))


def test_a_second_seed_that_changes_other_images_narrows_the_interval() -> None:
    one, other = np.zeros(COUNT), np.zeros(COUNT)
    one[:10], other[20:30] = 1, 1
    low, high = paired_mean(one)
    both_low, both_high = paired_mean((one + other) / 2)
    assert both_high - both_low < 0.8 * (high - low)


def test_networks_stand_side_by_side_with_ratio_difference_and_estimate() -> None:
    rows = {
        "two/w8a8/default/0": row(8, 0, 0.05, estimate=3.0),
        "one/w8a8/default/0": row(2, 0, 0.02),
        "two/w8a8/default/1": row(6, 2, 0.03, estimate=4.0),
        "one/w8a8/default/1": row(2, 2, 0.02),
    }
    lines = table({**ASKED, "rows": rows}).splitlines()
    first, second = [cells(line) for line in lines if line.startswith("| w8a8")][:2]
    assert first[2:5] == ["one", "2", "75.00"]
    assert first[5].startswith("0.50 (0.00 … 1.00) [")
    assert first[8:] == ["–", "–", "–"]
    assert second[2] == "two"
    assert second[5].startswith("3.00 (2.00 … 4.00) [")
    assert second[6:9] == ["96.0 %", "4.00 %", "2.00"]
    assert second[9].startswith("+2.50 [")
    assert second[10] == "3.50 (2.00)"  # 3.0 beside 4.0 lost, 4.0 beside 2.0 lost
    every = [cells(line) for line in lines if line.startswith("| w8a8")][2:]
    assert [line[9:12] for line in every] == [
        ["–", "–", "–"],
        ["–", "–", "–"],
        ["3.00", "87.5 %", "6.25 %"],
        ["4.00", "87.5 %", "6.25 %"],
    ]


def test_a_file_goes_on_and_is_written_in_order(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    result = opened(path, ASKED)
    assert result["rows"] == {}
    result["rows"]["two/w4a8/default/0"] = row(1, 0, 0.1)
    result["rows"]["one/w8a8/default/1"] = row(1, 0, 0.1)
    write(path, result)
    assert list(opened(path, ASKED)["rows"]) == ["one/w8a8/default/1", "two/w4a8/default/0"]


@pytest.mark.parametrize("name", ["recipe", "scale", "evaluation"])
def test_rows_of_another_experiment_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "results.json"
    write(path, opened(path, ASKED))
    with pytest.raises(BadInput, match=name):
        opened(path, {**ASKED, name: "another"})


def test_another_network_of_the_same_name_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "results.json"
    write(path, opened(path, ASKED))
    other = {**ASKED, "networks": {"one": {"weights_sha256": "9", "images_of": "one"}}}
    with pytest.raises(BadInput, match="network one"):
        opened(path, other)


def test_files_are_joined_unless_they_contradict(tmp_path: Path) -> None:
    first, second = tmp_path / "first.json", tmp_path / "second.json"
    one = {**ASKED, "networks": {"one": ASKED["networks"]["one"]}}
    write(first, {**one, "rows": {"one/w8a8/default/0": row(1, 0, 0.1)}})
    both = {"one/w8a8/default/0": row(1, 0, 0.1), "two/w8a8/default/0": row(2, 0, 0.1)}
    write(second, {**ASKED, "rows": both})
    result = merged([first, second])
    assert list(result["networks"]) == ["one", "two"]
    assert result["rows"] == both

    write(second, {**ASKED, "rows": {"one/w8a8/default/0": row(2, 0, 0.1)}})
    with pytest.raises(BadInput, match="another one/w8a8/default/0"):
        merged([first, second])


def test_results_of_an_older_script_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "old.json"
    path.write_text(json.dumps({"model": "deit_t", "rows": {}}))
    with pytest.raises(BadInput, match="older"):
        merged([path])


def test_networks_are_parsed() -> None:
    first, second, hub = parse_networks(
        ["deit=deit_t:some/deit.safetensors", "planted=deit_t:p.safetensors", "h=hf-hub:me/vit"],
        ["planted=deit"],
    )
    assert (first.name, first.model, first.weights) == (
        "deit",
        "deit_t",
        Path("some/deit.safetensors"),
    )
    assert (first.calibration, second.calibration) == (None, "deit")
    assert (hub.model, hub.weights) == ("hf-hub:me/vit", None)


@pytest.mark.parametrize(
    ("networks", "calibrations", "problem"),
    [
        (["deit_t"], [], "not of the form"),
        (["a/b=deit_t"], [], "not of the form"),
        (["a=deit_t", "a=vit_t"], [], "Two networks"),
        (["a=deit_t"], ["b=folder"], "no network is named b"),
    ],
)
def test_mistaken_networks_are_refused(
    networks: list[str], calibrations: list[str], problem: str
) -> None:
    with pytest.raises(BadInput, match=problem):
        parse_networks(networks, calibrations)
