"""Tensors out of a pickle of ``torch.save``, whatever stands beside them; nothing is executed.

PyTorch's restricted unpickler calls only what it is told is safe. Configurations, paths and numbers
are let through as what they are; every other class or function that a file names is replaced by
:class:`Opaque`, which keeps nothing and calls nothing.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import pathlib
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mimiq.errors import BadInput
from mimiq.files import exhausted

_Globals = list[Callable[..., Any] | tuple[Callable[..., Any], str]]


class Opaque(list[Any]):
    """Stands for an object whose class is not known to be harmless."""

    def __new__(cls, *_: object, **__: object) -> Opaque:
        return list.__new__(cls)

    def __init__(self, *_: object, **__: object) -> None:
        super().__init__()

    def __setstate__(self, _state: object) -> None:
        """What the object would hold is left out."""

    def __hash__(self) -> int:  # type: ignore[override]  # may be a key of a mapping
        return id(self)


class OpaqueMapping:
    """As :class:`Opaque`, for subclasses of dict: the unpickler fills nothing but plain ones."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return collections.OrderedDict()


def read_pickle(path: Path) -> Any:
    """What a ``.pth``, ``.pt``, ``.bin`` or ``.ckpt`` holds, unknown objects as :class:`Opaque`.

    Raises:
        BadInput: the file is truncated, no pickle of PyTorch's, or needs code to be read.
        EnvironmentLacks: there is no memory for it.
    """
    unknown = _unknown_globals(path)
    error: Exception | None = None
    for stand_in in (Opaque, OpaqueMapping):
        replaced: _Globals = [(stand_in, name) for name in unknown]
        try:
            with (
                torch.serialization.safe_globals([*_harmless(), *replaced]),
                warnings.catch_warnings(action="ignore"),  # of sparse tensors, pickles' protocols
            ):
                return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as caught:
            error = caught
        except Exception as caught:  # what is no pickle makes the unpickler raise anything
            raise exhausted(caught, f"{path} cannot be read") or BadInput(
                f"{path} is not a readable PyTorch checkpoint.",
                "It may be truncated: download or copy it again.",
            ) from caught
    if _by_python(path):
        raise BadInput(
            f"{path} was written by Python's pickle or joblib, not by torch.save, and to read it "
            "would be to run what it holds.",
            "Save the weights where it was made: torch.save(state_dict, 'weights.pth').",
        ) from error
    # PyTorch's own words advise to load it all the same, and to run what it holds.
    named = f" It names {', '.join(sorted(unknown)[:3])}." if unknown else ""
    raise BadInput(
        f"{path} cannot be loaded as plain tensors.{named}",
        "It is truncated, or holds Python objects, which mimiq never executes: "
        "save model.state_dict() alone.",
    ) from error


def _by_python(path: Path) -> bool:
    """Whether a pickle has a newer protocol than PyTorch writes."""
    with path.open("rb") as file:
        head = file.read(2)
    return head[:1] == b"\x80" and head[1:] > bytes([torch.serialization.DEFAULT_PROTOCOL])


def _harmless() -> _Globals:
    """Values that training scripts write beside the weights. None of them runs anything."""
    from numpy.dtypes import __all__ as dtype_names

    found: _Globals = [
        argparse.Namespace,
        collections.deque,
        collections.defaultdict,
        datetime.date,
        datetime.datetime,
        datetime.timedelta,
        np.dtype,
        np.ndarray,
        *(getattr(np.dtypes, name) for name in dtype_names),
    ]
    # Paths of either system, in a form that every system can hold.
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"):
            path = pathlib.PureWindowsPath if "Windows" in name else pathlib.PurePosixPath
            found.append((path, f"{module}.{name}"))
    multiarray = np._core.multiarray  # type: ignore[attr-defined]
    for module in ("numpy.core.multiarray", "numpy._core.multiarray"):
        found.append((multiarray.scalar, f"{module}.scalar"))
        found.append((multiarray._reconstruct, f"{module}._reconstruct"))
    for kind in (int, float, str, bool, list, dict, tuple, frozenset, slice):
        found.append((kind, f"builtins.{kind.__name__}"))
    return found


def _unknown_globals(path: Path) -> list[str]:
    """Names of the classes and functions that neither PyTorch nor we know to be harmless."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            return sorted(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    except Exception:  # older than zip archives, or damaged: loading it says which
        return []
