"""A weight-only network's form for CPUs is kept where rounding its activations costs little."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from runtime_models import SIZE, write_linear_classifier

from mimiq.config.precision import Precision, int8, weight_only
from mimiq.progress import SILENT
from mimiq.runtime.bundle import CPU_MODEL, MODEL
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.stages.images import TuningImages
from mimiq.stages.measuring.cpu_form import kept_forms


def kept(folder: Path, precision: Precision, cpu_scale: float) -> tuple[set[str], list[str]]:
    """Of a network whose weights are a fifth too large, with a form for CPUs of another scale."""
    job: Any = SimpleNamespace(
        precision=precision, model=SimpleNamespace(preprocessing=Preprocessing(SIZE, 1.0))
    )
    pixels = torch.randint(256, (24, SIZE, SIZE, 3), dtype=torch.uint8)
    images = TuningImages(pixels, pixels, pixels[:0], "synthetic")
    graphs = {
        MODEL: write_linear_classifier(folder / MODEL, scale=1.2),
        CPU_MODEL: write_linear_classifier(folder / CPU_MODEL, scale=cpu_scale),
    }
    reference = write_linear_classifier(folder / "fp32.onnx")
    found, said = kept_forms(job, images, graphs, reference, SILENT)
    return set(found), said


@pytest.mark.parametrize(
    ("cpu_scale", "forms", "words"),
    [
        (1.203, {MODEL, CPU_MODEL}, "keeps them in floating point"),
        (1.3, {MODEL}, "it was left out"),
    ],
)
def test_the_form_is_kept_where_the_error_hardly_grows(
    tmp_path: Path, cpu_scale: float, forms: set[str], words: str
) -> None:
    found, (note,) = kept(tmp_path, weight_only(4, 32), cpu_scale)
    assert found == forms
    assert words in note


def test_activations_that_are_quantised_anyway_need_no_choice(tmp_path: Path) -> None:
    assert kept(tmp_path, int8(), 1.3) == ({MODEL, CPU_MODEL}, [])
