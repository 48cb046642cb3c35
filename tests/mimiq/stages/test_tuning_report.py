"""The record of what was done to a network: whole on disk, and readable without distillation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from mimiq.quantize.equalization import MigrationResult
from mimiq.quantize.layerwise import Fit
from mimiq.quantize.outliers import Outliers
from mimiq.runtime.report.report import Tuning
from mimiq.stages.tuning_report import TuningReport

FITTED = TuningReport(
    migrations=(MigrationResult("blocks.0.mlp.fc1", 0.5, 0.75),),
    outliers=(Outliers("blocks.0.mlp.fc2", (3, 17), 0.25, 0.125),),
    errors={"head": 0.5},
    fits=(Fit("head", None, True, 1.0), Fit("blocks.0.mlp.fc1", 0.01, False, 0.5)),
)


def test_it_survives_its_file(tmp_path: Path) -> None:
    distilled = replace(FITTED, result=Tuning(2, 0.5, 0.25, 1, ((0, 0.5), (1, 0.25)), 0.9, 3.5))
    for report in (FITTED, distilled):
        report.write(tmp_path)
        assert TuningReport.read(tmp_path) == report


def test_what_was_not_distilled_says_nothing_of_a_result() -> None:
    assert "result" not in FITTED.to_json()
    assert FITTED.to_json()["outliers"][0]["columns"] == [3, 17]
