"""What was done to a network between its trained weights and its quantised ones, as a record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mimiq.quantize.equalization import MigrationResult
from mimiq.quantize.insert import QuantizedModel
from mimiq.quantize.layerwise import Fit
from mimiq.quantize.outliers import Outliers
from mimiq.runtime.report.report import Tuning

_FILE = "tuning.json"


@dataclass(frozen=True)
class TuningReport:
    """What fitting a network did, and distilling it.

    Attributes:
        migrations: what outlier migration chose.
        outliers: the Linears with columns in floating point.
        errors: what rounding each Linear alone does to the logits.
        fits: what the layer-wise fit chose for each Linear.
        result: of distillation; None before it.
    """

    migrations: tuple[MigrationResult, ...] = ()
    outliers: tuple[Outliers, ...] = ()
    errors: Mapping[str, float] = field(default_factory=dict)
    fits: tuple[Fit, ...] = ()
    result: Tuning | None = None

    @staticmethod
    def of(network: QuantizedModel) -> TuningReport:
        """That of a network as it was fitted."""
        return TuningReport(
            migrations=tuple(network.migrations),
            outliers=network.outliers,
            errors=dict(network.errors),
            fits=tuple(network.fits),
        )

    def to_json(self) -> dict[str, Any]:
        result = {} if self.result is None else {"result": self.result.to_json()}
        return {
            **result,
            "migrations": [vars(found) for found in self.migrations],
            "outliers": [vars(found) | {"columns": list(found.columns)} for found in self.outliers],
            "errors": dict(self.errors),
            "fits": [vars(found) for found in self.fits],
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> TuningReport:
        result = data.get("result")
        return TuningReport(
            migrations=tuple(MigrationResult(**each) for each in data["migrations"]),
            outliers=tuple(
                Outliers(**{**each, "columns": tuple(each["columns"])}) for each in data["outliers"]
            ),
            errors=data["errors"],
            fits=tuple(Fit(**each) for each in data["fits"]),
            result=None if result is None else Tuning.from_json(result),
        )

    def write(self, folder: Path) -> None:
        """Write it into a stage's folder."""
        (folder / _FILE).write_text(json.dumps(self.to_json(), indent=1))

    @staticmethod
    def read(folder: Path) -> TuningReport:
        """The one in a stage's folder."""
        return TuningReport.from_json(json.loads((folder / _FILE).read_text()))
