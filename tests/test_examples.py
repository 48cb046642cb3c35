"""The examples run, and say what they promise."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

import mimiq

FOLDER = Path(__file__).parents[1] / "examples"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_a_network_in_memory_is_compiled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "network.mimiq"
    example("compile_in_memory").main(["--out", str(out), "--images", "8", "--steps", "2"])
    said = capsys.readouterr().out
    assert f"{out}: w8a8, 3 classes" in said
    found = float(said.rpartition("differ by ")[2].partition("%")[0])
    assert 0 < found < 5
    assert mimiq.Bundle(out).precision_label == "w8a8"
