"""The wheel as users get it, built from a copy of the tree."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PIP_S = 600


def built_wheel(folder: Path) -> Path:
    """Build it under ``folder``; a test is skipped where pip cannot."""
    # A copy, for building leaves its traces in the source tree.
    source = folder / "source"
    source.mkdir(parents=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    for name in ("mimiq", "calibrate", "export", "runtime"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--quiet"]
    built = subprocess.run(
        [*command, "--wheel-dir", str(folder / "wheels"), str(source)],
        capture_output=True,
        text=True,
        timeout=PIP_S,
        check=False,
    )
    if built.returncode:
        pytest.skip(f"pip cannot build the wheel here: {built.stderr.strip()[-300:]}")
    (wheel,) = (folder / "wheels").glob("mimiq_vit-*.whl")
    return wheel
