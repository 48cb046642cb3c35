"""``doctor``: what this host can build and run, and what would have to be done for the rest."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from mimiq.cli import options
from mimiq.cli.choices import GRAPH
from mimiq.cli.commanding import Command
from mimiq.cli.flags import with_flags
from mimiq.cli.output import print_json, show, table, working
from mimiq.errors import EnvironmentLacks, MimiqError
from mimiq.libraries import missing_libraries
from mimiq.runtime.backend import Backend, Lack
from mimiq.runtime.backends import BACKENDS
from mimiq.runtime.host import describe_hardware, installed_version
from mimiq.runtime.onnxruntime.wheels import clash
from mimiq.runtime.tensorrt.products import PRODUCTS, Product

_SOFTWARE = (
    "mimiq",
    "numpy",
    "pillow",
    "click",
    "rich",
    "platformdirs",
    "nvidia-ml-py",
    "onnxruntime-gpu",
    "onnxruntime",
    "openvino",
    "torch",
    "timm",
    "onnx",
    "onnx-ir",
    "onnxscript",
    "safetensors",
    "tensorrt-rtx-cu13",
    "tensorrt",
    "cuda-python",
    "pycuda",
)
_LEAST_FREE_BYTES = 2**30


@dataclass(frozen=True)
class Ability:
    """Something that a host can do or not.

    Attributes:
        name: what it is called on the command line.
        title: what it is.
        possible: whether it works here.
        reason: why not; empty where it works.
        next_step: what would make it work; empty where nothing is missing or can be done.
    """

    name: str
    title: str
    possible: bool
    reason: str = ""
    next_step: str = ""


@click.command(
    cls=Command,
    short_help="What this host can build and run.",
    examples=(
        ("mimiq doctor", "what works here, and what is missing"),
        ("mimiq doctor --json", "for a bug report"),
    ),
)
@options.cache_option
@options.json_option
def doctor(cache_dir: Path | None, json: bool) -> None:
    """Say what this host can build and run, and what is missing for the rest."""
    with working():
        findings = examine(cache_dir)
    if json:
        print_json(findings)
        return
    _show(findings)


def examine(cache_dir: Path | None = None) -> dict[str, Any]:
    """Everything that ``doctor`` prints; no probe's failure is an error."""
    from mimiq.runtime.onnxruntime.graph import integer_kernels

    backends, targets = runnable(), buildable()
    cache = _cache(cache_dir)
    abilities = [*backends, *targets]
    steps = [
        f"For {ability.title}: {ability.next_step}" for ability in abilities if ability.next_step
    ]
    steps += [*([two] if (two := clash()) else []), *cache["next_steps"]]
    return {
        "python": sys.version.split()[0],
        "executable": sys.executable,
        "software": {name: installed_version(name) for name in _SOFTWARE},
        "hardware": describe_hardware(),
        "integer_kernels": asdict(integer_kernels()),
        "backends": [asdict(ability) for ability in backends],
        "targets": [asdict(ability) for ability in targets],
        "cache": cache,
        "next_steps": list(dict.fromkeys(steps)),
    }


def runnable(backends: Iterable[Backend] = BACKENDS) -> list[Ability]:
    """The backends that bundles run on, the one that every host has first."""
    return [_ability(b.name, b.title, b.why_not) for b in reversed(tuple(backends))]


def buildable() -> list[Ability]:
    """What can be made here."""
    engines = (
        _ability(product.name, f"{product.title} engines", partial(_why_not_build, product))
        for product in PRODUCTS
    )
    return [_ability(GRAPH, "bundles, with mimiq-compile", _why_not_compile), *engines]


def _cache(folder: Path | None) -> dict[str, Any]:
    from mimiq.cache import default_cache_dir

    try:
        return describe_cache(folder or default_cache_dir())
    except EnvironmentLacks as error:
        nothing = {"folder": None, "entries": 0, "bytes": 0, "free_bytes": None}
        return nothing | {"next_steps": [f"{error.problem} {error.next_step}"]}


def describe_cache(folder: Path) -> dict[str, Any]:
    """Where finished stages are kept, how much they take, and how much is free."""
    here = folder
    while not here.exists():
        here = here.parent
    try:
        free = shutil.disk_usage(here).free
    except OSError:
        free = None
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    steps = []
    if free is not None and free < _LEAST_FREE_BYTES:
        steps.append(f"Free some disk space: {here} has {free / 1e6:.0f} MB left.")
    return {
        "folder": str(folder),
        "entries": sum(1 for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else 0,
        "bytes": sum(_size(path) for path in files),
        "free_bytes": free,
        "next_steps": steps,
    }


def _ability(name: str, title: str, why_not: Callable[[], Lack | None]) -> Ability:
    try:
        lack = why_not()
    except MimiqError as error:
        lack = Lack(with_flags(error.problem), remedy=with_flags(error.next_step))
    except Exception as error:  # a broken library must not hide the others
        lack = Lack(f"{type(error).__name__}: {error}".splitlines()[0])
    if lack is None:
        return Ability(name, title, True)
    return Ability(name, title, False, lack.reason, lack.next_step)


def _why_not_compile() -> Lack | None:
    missing = missing_libraries()
    return Lack(f"Not installed: {', '.join(missing)}.", "compile") if missing else None


def _why_not_build(product: Product) -> Lack | None:
    if product.is_installed:
        product.load()
    return product.why_not_build()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _show(findings: dict[str, Any]) -> None:
    hardware, cache = findings["hardware"], findings["cache"]
    gpus = [
        f"{gpu['name']}, {gpu['memory_gib']} GiB, compute capability "
        f"{gpu['compute_capability']}, driver {gpu['driver']}"
        for gpu in hardware["gpus"]
    ]
    free = cache["free_bytes"]
    host = [
        ("python", f"{findings['python']}  {findings['executable']}"),
        ("system", hardware["os"]),
        ("cpu", f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['memory_gib']} GiB"),
        ("instructions", ", ".join(hardware["instruction_sets"]) or "none that matter here"),
        ("int8 on the cpu", "{name}: {text}".format(**findings["integer_kernels"])),
        ("gpu", "\n".join(gpus) or "none"),
        (
            "cache",
            "no folder: this user has no home"
            if cache["folder"] is None
            else f"{cache['folder']}: {cache['entries']} results, {cache['bytes'] / 1e6:.0f} MB; "
            + (f"{free / 1e9:.1f} GB free" if free is not None else "free space unknown"),
        ),
    ]
    software = [(name, version or "–") for name, version in findings["software"].items()]
    show(table(("", ""), host, "This host"), "", table(("", ""), software, "Software"))
    for title, key in (("Runs here", "backends"), ("Can be built here", "targets")):
        rows = [
            (item["name"], "yes" if item["possible"] else "no", item["title"], item["reason"])
            for item in findings[key]
        ]
        show("", table(("", "", "", ""), rows, title))
    if findings["next_steps"]:
        show("", "Next steps", *(f"  {step}" for step in findings["next_steps"]))
