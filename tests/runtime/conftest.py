"""Fixtures: classifiers and bundles in a temporary folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runtime_models import (
    CLASSES,
    SIZE,
    MakeBundle,
    MakeModel,
    manifest_entries,
    write_linear_classifier,
)

from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.report.report import Report


@pytest.fixture
def preprocessing() -> Preprocessing:
    return Preprocessing(image_size=SIZE, crop_pct=1.0)


@pytest.fixture
def make_model(tmp_path: Path) -> MakeModel:
    def make(name: str = "linear.onnx", **options: Any) -> Path:
        return write_linear_classifier(tmp_path / name, **options)

    return make


@pytest.fixture
def make_bundle(tmp_path: Path, make_model: MakeModel) -> MakeBundle:
    def make(name: str = "linear.mimiq", **options: Any) -> Bundle:
        return write_bundle(
            tmp_path / name,
            {"model.onnx": make_model(**options)},
            manifest_entries(),
            labels=[f"class {index}" for index in range(CLASSES)],
            report=Report(),
        )

    return make
