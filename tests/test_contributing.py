"""CONTRIBUTING.md names files and names that exist."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
GUIDE = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")


def test_every_path_exists() -> None:
    named = set(re.findall(r"`([\w./-]+(?:\.py|\.toml|\.md|/))`", GUIDE))
    assert len(named) > 20
    for name in named:
        below = [ROOT / name, ROOT / "mimiq" / name, ROOT / "mimiq" / "cli" / name]
        assert any(path.exists() for path in below), name


def test_every_command_of_setting_up_is_the_readme_s_or_runs_a_test_that_exists() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (setup,) = re.findall(r"^python3 -m venv .*$", GUIDE, flags=re.MULTILINE)
    assert setup in readme
    for path in re.findall(r"pytest -n 0 -q (\S+)", GUIDE):
        assert (ROOT / path).exists(), path


def test_what_is_pointed_at_is_there() -> None:
    for name, file in (
        ("FAMILIES", "mimiq/models/families/known.py"),
        ("RULES", "export/rules/__init__.py"),
        ("BACKENDS", "runtime/backends.py"),
        ("class Backend", "runtime/backend.py"),
        ("class Lack", "runtime/backend.py"),
        ("def lowering", "export/passes/__init__.py"),
        ("def half_precision", "export/passes/__init__.py"),
        ("def cpu", "export/passes/__init__.py"),
        ("class Family", "mimiq/models/family.py"),
        ("class Session", "runtime/session.py"),
    ):
        assert name in (ROOT / file).read_text(encoding="utf-8"), (name, file)
