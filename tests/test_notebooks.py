"""The notebooks run from their first cell to their last, and say what they promise."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from compiled import INT4, INT8, Compile

FOLDER = Path(__file__).parents[1] / "examples"


def run(name: str) -> dict[str, Any]:
    """The names that the notebook's cells leave; a last line that is a value is shown."""
    book = json.loads((FOLDER / f"{name}.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in book["cells"]:
        if cell["cell_type"] != "code":
            continue
        assert cell["outputs"] == []  # what they print is made anew by whoever runs them
        tree = ast.parse("".join(cell["source"]))
        shown = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, name, "exec"), names)
        if shown is not None:
            value = eval(compile(ast.Expression(shown.value), name, "eval"), names)  # type: ignore[attr-defined]
            show = getattr(value, "_repr_html_", None)
            assert show is None or "<" in show()
    return names


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
def test_your_own_network() -> None:
    assert run("your_own_network")["error"] < 0.3


@pytest.mark.slow
def test_choosing_a_precision(compile_digits: Compile, capsys: pytest.CaptureFixture[str]) -> None:
    compile_digits(*INT8)  # its stages are in the cache then, for all
    compile_digits(*INT4)
    capsys.readouterr()
    bundles = run("choosing_a_precision")["bundles"]
    assert bundles["int4"].report.size.bytes < bundles["int8"].report.size.bytes
    said = capsys.readouterr().out
    assert "int8: " in said
    assert "probably lost" in said


@pytest.mark.slow
def test_calibrating_another_tool() -> None:
    assert run("calibrating_another_tool")["same"] > 0.9
