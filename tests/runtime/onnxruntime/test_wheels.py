"""Two distributions of ONNX Runtime, told apart."""

from __future__ import annotations

import pytest

from mimiq.cli.commands import doctor
from mimiq.runtime.onnxruntime import wheels


@pytest.mark.parametrize(
    ("present", "step"),
    [
        ((), "pip install onnxruntime-gpu"),
        (("onnxruntime",), "pip uninstall -y onnxruntime && pip install onnxruntime-gpu"),
    ],
)
def test_what_is_there_goes_first(
    monkeypatch: pytest.MonkeyPatch, present: tuple[str, ...], step: str
) -> None:
    monkeypatch.setattr(wheels, "installed_version", lambda name: "1" if name in present else None)
    assert wheels.swap_for("onnxruntime-gpu") == step
    assert wheels.clash() is None


def test_doctor_says_where_both_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wheels, "installed_version", lambda _: "1.30")
    (step,) = (step for step in doctor.examine()["next_steps"] if "both installed" in step)
    assert "pip uninstall -y onnxruntime-gpu onnxruntime && pip install onnxruntime-gpu" in step
