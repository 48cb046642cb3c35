"""Imports point one way: from the command line down to errors."""

from __future__ import annotations

import ast
import functools
import pkgutil
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
FOLDERS = {"calibrate": "calibrate", "export": "export", "runtime": "runtime"}

# From the top down; a room may import from rooms below its own and from itself.
FLOORS = [
    {"cli"},
    {"api"},
    {"compiler", "inputs", "jobs", "sweep"},
    {"stages"},
    {"synthesis", "distill"},
    {"export", "spec"},
    {"config.recipes"},
    {"quantize", "calibrate"},
    {"models", "devices"},
    {"runtime"},
    {"config", "cache"},
    {"files", "lazy", "outputs", "progress", "ranks"},
    {"errors", "libraries", "version"},
]
# What a room asks of one above it, promised as a protocol below and named as an entry point is.
HOOKS = {"mimiq.export.tensorrt.on_opening:BUILDER": "mimiq.runtime.tensorrt.builder"}


def room(module: str) -> str:
    parts = module.split(".")[1:]
    if parts[:2] == ["config", "recipes"]:
        return "config.recipes"
    return parts[0] if parts else ""


@functools.cache
def modules() -> dict[str, ast.Module]:
    found = {}
    for folder in ("mimiq", *FOLDERS):
        for file in (ROOT / folder).rglob("*.py"):
            inside = file.relative_to(ROOT).with_suffix("").parts
            name = ".".join(inside if folder == "mimiq" else ("mimiq", *inside))
            found[name] = ast.parse(file.read_text(encoding="utf-8"))
    return found


def imported(tree: ast.Module) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mimiq."):
            target = node.module or ""
            if target == "mimiq.config" and any(a.name == "recipes" for a in node.names):
                target = "mimiq.config.recipes"
            yield target


def named(tree: ast.Module) -> Iterator[str]:
    """Modules that are named in a text, to be imported or run."""
    for node in ast.walk(tree):
        text = node.value if isinstance(node, ast.Constant) else None
        if isinstance(text, str) and re.fullmatch(r"mimiq(\.\w+)+(:\w+)?", text):
            yield text


def runs_up(source: str, target: str) -> bool:
    floor = {name: index for index, names in enumerate(FLOORS) for name in names}
    above, below = floor.get(room(target)), floor.get(room(source))
    return above is not None and below is not None and above < below


def test_no_arrow_runs_up() -> None:
    upward = {
        (name, target)
        for name, tree in modules().items()
        for target in imported(tree)
        if runs_up(name, target)
    }
    assert not upward


def test_only_hooks_name_what_is_above() -> None:
    upward = {
        text: name
        for name, tree in modules().items()
        for text in named(tree)
        if runs_up(name, text.partition(":")[0])
    }
    assert upward == HOOKS
    for text in HOOKS:
        assert pkgutil.resolve_name(text)


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
