"""The command that a report names is read back as what was asked for."""

from __future__ import annotations

import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest

from mimiq.cli import compile_main
from mimiq.cli.choices import ModelChoice, PrecisionChoice
from mimiq.cli.values import loading, precision_name
from mimiq.config.command import compile_command

GIVEN: dict[str, Any] = {
    "weights": Path("my weights.pth"),
    "image_size": (112, 448),
    "model_kwargs": {"num_heads": 12, "global_pool": "avg"},
    "ema": False,
    "max_drop": 1.5,
    "batches": (1, 8),
    "eval_limit": 10,
    "evaluation": "val",
    "fp8": True,
    "steps": 0,
}


@pytest.mark.parametrize(
    ("precision", "meant"),
    [
        ("int8", "w8a8"),
        ("w4a8", "w4a8"),
        ("w4a4", "w4a4"),
        ("int4-weight-only", "int4-weight-only"),
        ("int3-weight-only", "int3-weight-only"),
    ],
)
def test_it_parses_to_the_same(precision: str, meant: str) -> None:
    program, *arguments = shlex.split(compile_command("./my vit", precision, GIVEN))
    assert program == "mimiq-compile"
    found = compile_main.make_context(program, arguments).params
    for name, value in GIVEN.items():
        read = str(found[name]) if name == "evaluation" else found[name]
        assert read == value, name
    assert found["model"] == "./my vit"
    flags = {name: found[name] for name in PrecisionChoice.__dataclass_fields__}
    assert precision_name(PrecisionChoice(**flags)) == meant
    choice = ModelChoice(**{name: found[name] for name in ModelChoice.__dataclass_fields__})
    assert loading(choice)["image_size"] == (112, 448)


def test_no_latency_is_a_flag_of_its_own() -> None:
    assert compile_command("digits", "int4", {"batches": ()}) == (
        "mimiq-compile digits --int4 --no-bench"
    )


def test_the_package_runs_as_the_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As launchers start it: ``torchrun -m mimiq compile …``."""
    monkeypatch.setattr("sys.argv", ["mimiq", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("mimiq", run_name="__main__")
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("mimiq ")
