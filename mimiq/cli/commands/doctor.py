"""``doctor``: what this host can build and run, and what would have to be done for the rest."""

from __future__ import annotations

import importlib
import importlib.util
import re
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click

from mimiq.cli import options
from mimiq.cli.failures import Command
from mimiq.cli.flags import with_flags
from mimiq.cli.output import print_json, show, table, working
from mimiq.cli.preflight import missing_libraries
from mimiq.errors import MimiqError, pip_install
from mimiq.runtime.host import cuda_driver_present, describe_hardware, installed_version

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
_NO_ONNX_RUNTIME = "onnxruntime is not installed."


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


@click.command(cls=Command, short_help="What this host can build and run.")
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
    from mimiq.cache import default_cache_dir
    from mimiq.runtime.onnxruntime.graph import integer_kernels

    backends, targets = runnable(), buildable()
    cache = describe_cache(cache_dir or default_cache_dir())
    abilities = [*backends, *targets]
    steps = [
        f"For {ability.title}: {ability.next_step}" for ability in abilities if ability.next_step
    ]
    steps += cache["next_steps"]
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


def runnable() -> list[Ability]:
    """The backends that bundles run on."""
    return [
        _ability("ort", "ONNX Runtime on the CPU", _why_not_ort),
        _ability("ort-cuda", "ONNX Runtime on an NVIDIA GPU", _why_not_ort_cuda),
        *(_ability(p.name, f"{p.title} engines", p.why_not_run) for p in _products()),
    ]


def buildable() -> list[Ability]:
    """What can be made here."""
    return [
        _ability("ort", "bundles, with mimiq-compile", _why_not_compile),
        *(_ability(p.name, f"{p.title} engines", _why_not_build(p)) for p in _products()),
    ]


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


def _ability(name: str, title: str, why_not: Callable[[], str | None]) -> Ability:
    step = ""
    try:
        reason = why_not() or ""
    except MimiqError as error:
        reason, step = with_flags(error.problem), with_flags(error.next_step)
    except Exception as error:  # a broken library must not hide the others
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
    extra = re.search(r"extra '(\w+)'", reason)
    if extra is not None:
        step = pip_install(extra[1])
    elif reason == _NO_ONNX_RUNTIME:
        step = "pip install onnxruntime-gpu (or onnxruntime)"
    if name == "trt" and not cuda_driver_present():
        step = ""  # installing it would not help
    return Ability(name, title, not reason, reason, step)


def _why_not_compile() -> str | None:
    missing = missing_libraries()
    return f"Not installed: {', '.join(missing)} (extra 'compile')." if missing else None


def _why_not_build(product: Any) -> Callable[[], str | None]:
    def why_not() -> str | None:
        if not product.is_installed:
            return f"{product.title} is not installed (extra {product.name!r})."
        product.load()
        return None if product.can_build_here() else str(product.why_not_run())

    return why_not


def _why_not_ort() -> str | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return _NO_ONNX_RUNTIME
    importlib.import_module("onnxruntime")
    return None


def _why_not_ort_cuda() -> str | None:
    reason = _why_not_ort()
    if reason is not None:
        return reason
    if not cuda_driver_present():
        return "No NVIDIA driver and GPU can be used on this host."
    library: Any = importlib.import_module("onnxruntime")
    if "CUDAExecutionProvider" not in library.get_available_providers():
        return f"onnxruntime {library.__version__} was built without CUDA: use onnxruntime-gpu."
    return None


def _products() -> Iterable[Any]:
    from mimiq.runtime.tensorrt.library import PRODUCTS

    return PRODUCTS


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
            f"{cache['folder']}: {cache['entries']} results, {cache['bytes'] / 1e6:.0f} MB; "
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
