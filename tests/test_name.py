"""The distribution is mimiq-vit everywhere: "mimiq" on the package index is another project."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from mimiq.errors import pip_install
from mimiq.version import DISTRIBUTION

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
_READ = ("mimiq", "calibrate", "export", "runtime", "docs", "docker", "benchmarks")


def test_the_project_and_the_hints_have_one_name() -> None:
    assert PROJECT["name"] == DISTRIBUTION
    assert pip_install("rtx") == f"pip install '{DISTRIBUTION}[rtx]'"


def test_no_hint_installs_the_other_project() -> None:
    files = [ROOT / "README.md", *(file for name in _READ for file in (ROOT / name).rglob("*"))]
    texts = {
        file: file.read_text(encoding="utf-8")
        for file in files
        if file.is_file() and file.suffix in (".py", ".md", "")
    }
    assert any(f"pip install {DISTRIBUTION}" in text for text in texts.values())
    wrong = re.compile(r"pip install (?:-\S+ )*['\"]?mimiq(?!-vit)|'mimiq\[")
    for file, text in texts.items():
        assert not wrong.search(text), file


def test_every_extra_that_a_hint_names_exists() -> None:
    named = {
        extra
        for name in ("mimiq", "calibrate", "export", "runtime")
        for file in (ROOT / name).rglob("*.py")
        for extra in re.findall(r"pip_install\(['\"](\w+)", file.read_text(encoding="utf-8"))
    }
    assert {"compile", "rtx", "serve"} <= named
    assert named <= set(PROJECT["optional-dependencies"])
