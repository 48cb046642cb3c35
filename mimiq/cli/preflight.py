"""What can be refused at once is refused before anything slow begins."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from mimiq.errors import BadInput, EnvironmentLacks, pip_install
from mimiq.models.names import check_name

COMPILE_LIBRARIES = ("torch", "timm", "onnx", "onnx_ir", "onnxscript", "safetensors")


def missing_libraries() -> list[str]:
    """Those of the ``compile`` extra that are not installed; none is imported."""
    return [name for name in COMPILE_LIBRARIES if importlib.util.find_spec(name) is None]


def require_compile_extra() -> None:
    """Raise EnvironmentLacks, with the line that installs it, where a library is missing."""
    missing = missing_libraries()
    if missing:
        raise EnvironmentLacks(
            f"Compiling needs libraries that are not installed: {', '.join(missing)}.",
            f"Install them with: {pip_install('compile')}",
        )


def require_model(name: str) -> None:
    """Refuse what cannot be compiled, here or at all.

    Raises:
        EnvironmentLacks: as :func:`require_compile_extra`.
        BadInput: as :func:`mimiq.models.names.check_name`.
    """
    require_compile_extra()
    check_name(name)


def require_new(out: Path, force: bool, kind: str) -> None:
    """Refuse an output that is in the way, or cannot be written, before the work and not after it.

    Args:
        out: the folder or file to be.
        force: whether one of our own may be replaced.
        kind: how one of our own is known: a folder by a file in it (``manifest.json``), a file by
            its suffix (``.onnx``).

    Raises:
        BadInput: naming what stands in the way.
    """
    if os.path.lexists(out):
        if not force:
            raise BadInput(
                f"{out} exists already.", "Choose another name with -o, or replace it with --force."
            )
        if kind.startswith("."):
            ours = out.is_file() and out.suffix == kind
        else:
            ours = (out / kind).is_file() or _is_empty(out)
        if not ours:
            raise BadInput(
                f"{out} is something else than this command writes, so it will not be replaced.",
                "Choose another name with -o.",
            )
    parent = out.absolute().parent
    while not parent.exists():
        parent = parent.parent
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise BadInput(
            f"{out} cannot be written: {parent} is no folder that you may write to.",
            "Choose another place with -o.",
        )


def require_folder(path: Path, flag: str, what: str) -> None:
    """Raise BadInput unless there is a folder that can be listed."""
    if not path.is_dir():
        problem = "is a file" if path.exists() else "does not exist"
        raise BadInput(f"{flag} {path} {problem}; {what} is needed.", "Check the path.")
    if not os.access(path, os.R_OK | os.X_OK):
        raise BadInput(f"{flag} {path} may not be read.", "Check its permissions.")


def require_target(target: str) -> None:
    """Refuse an engine that was asked for by name and cannot be built on this host.

    Raises:
        EnvironmentLacks: the product is not installed, too old, or lacks its GPU.
    """
    from mimiq.runtime.tensorrt.library import find_product

    product = find_product(target)
    if product is None:
        return
    product.load()
    lack = product.why_not_build()
    if lack is not None:
        raise EnvironmentLacks(
            f"{product.title} times its kernels on a GPU. {lack.reason}",
            "Choose --target rtx, which builds anywhere, or run mimiq build on the host that "
            "will serve the model.",
        )


def _is_empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())
