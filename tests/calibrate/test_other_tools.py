"""docs/other_tools.md: its lines for ONNX Runtime, as they stand there."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from mimiq.cli import main
from mimiq.export import export_onnx
from mimiq.models import load_model
from mimiq.models.digits import digits_heldout
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

PAGE = Path(__file__).parents[2] / "docs" / "other_tools.md"


def test_onnx_runtime_calibrates_on_our_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = CliRunner().invoke(
        main,
        [
            "synthesize",
            "digits",
            "--images",
            "24",
            "--scenes",
            "8",
            "-o",
            "set",
            "--format",
            "npy",
            "--quiet",
        ],
    )
    assert told.exit_code == 0, told.output
    model = load_model("digits")
    shape = model.preprocessing.input_shape
    export_onnx(model.module, shape, Path("fp32.onnx"), output=model.output)
    (lines,) = re.findall(r"```python\n(import numpy.*?)```", PAGE.read_text(), re.DOTALL)
    exec(lines, {})
    pixels = digits_heldout()[0][:100]
    images = model.preprocessing.normalize(pixels)
    answers = []
    for graph in ("fp32.onnx", "int8.onnx"):
        with OnnxRuntimeSession(graph) as session:
            answers.append(session.run(images).argmax(-1))
    assert np.mean(answers[0] == answers[1]) >= 0.95
    assert Path("int8.onnx").stat().st_size < 0.5 * Path("fp32.onnx").stat().st_size
