"""The container recipe, as far as it can be judged without Docker."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
RECIPE = (ROOT / "docker" / "Dockerfile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_everything_that_is_installed_is_copied() -> None:
    copied = {
        name for line in re.findall(r"^COPY (.+) \S+$", RECIPE, re.M) for name in line.split()
    }
    folders = {
        Path(where).parts[0] for where in PROJECT["tool"]["setuptools"]["package-dir"].values()
    }
    files = {"pyproject.toml", PROJECT["project"]["readme"], *PROJECT["project"]["license-files"]}
    assert copied == folders | files
    assert all((ROOT / name).exists() for name in copied)


def test_its_extras_exist() -> None:
    (named,) = re.findall(r'"\.\[([\w,]+)\]"', RECIPE)
    assert set(named.split(",")) <= set(PROJECT["project"]["optional-dependencies"])


def test_the_guide_serves_the_release_that_the_recipe_builds_for() -> None:
    (release,) = re.findall(r"^ARG RELEASE=(\S+)$", RECIPE, re.M)
    guide = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")
    assert set(re.findall(r"tritonserver:([\d.]+)-py3", guide)) == {release}
    assert f"--build-arg RELEASE={release}" in guide
