"""Imports point one way: from the command line down to errors."""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"calibrate": "calibrate", "export": "export", "runtime": "runtime"}

# From the top down; a room may import from rooms below its own and from itself.
FLOORS = [
    {"cli"},
    {"api"},
    {"compiler", "inputs", "jobs"},
    {"stages"},
    {"synthesis", "distill"},
    {"export", "spec"},
    {"config.recipes"},
    {"quantize", "calibrate"},
    {"models", "devices"},
    {"runtime"},
    {"config", "cache"},
    {"files", "lazy", "outputs", "progress"},
    {"errors", "libraries", "version"},
]
# Arrows that still run up: none may be added. An engine that does not fit its host is built again
# when it is opened, by what lies with the graphs that it is built from.
KNOWN = {
    ("runtime", "export"),
}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    if parts[:2] == ["config", "recipes"]:
        return "config.recipes"
    return parts[0] if parts else ""


def arrows() -> set[tuple[str, str, str]]:
    found = set()
    for folder in ("mimiq", *FOLDERS):
        for file in (ROOT / folder).rglob("*.py"):
            inside = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(inside if folder == "mimiq" else ("mimiq", *inside))
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mimiq."):
                    target = node.module or ""
                    if target == "mimiq.config" and any(a.name == "recipes" for a in node.names):
                        target = "mimiq.config.recipes"
                    found.add((room(name), room(target), name))
    return found


def test_no_arrow_runs_up() -> None:
    floor = {name: index for index, names in enumerate(FLOORS) for name in names}
    upward = sorted(
        (source, target, name)
        for source, target, name in arrows()
        if source in floor
        and target in floor
        and floor[target] < floor[source]
        and (source, target) not in KNOWN
    )
    assert not upward


def test_no_folder_is_crowded() -> None:
    crowded = {
        str(folder.relative_to(ROOT)): count
        for top in ("mimiq", *FOLDERS)
        for folder in [ROOT / top, *(ROOT / top).rglob("*/")]
        if (count := len([f for f in folder.glob("*.py") if not f.stem.startswith("__")])) > 16
    }
    assert not crowded


def test_every_folder_is_packaged() -> None:
    """The four folders are mapped to one package, which setuptools cannot find by itself."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setuptools = settings["tool"]["setuptools"]
    folders = {
        folder.parent.relative_to(ROOT)
        for top in ("mimiq", *FOLDERS)
        for folder in (ROOT / top).rglob("__init__.py")
    }
    named = {
        ".".join(parts if parts[0] == "mimiq" else ("mimiq", *parts)): folder.as_posix()
        for folder in folders
        if (parts := folder.parts)
    }
    assert set(setuptools["packages"]) == named.keys()
    mapped = {name: path for name, path in named.items() if not path.startswith("mimiq/")}
    assert setuptools["package-dir"] == mapped
