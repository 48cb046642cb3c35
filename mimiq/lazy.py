"""Names of a package that are imported when they are first used."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import ModuleType
from typing import Any

PACKAGE = ""
"""In the place of a module: the name is that of a package below."""


def lazily(package: str, homes: Mapping[str, str]) -> Callable[[str], Any]:
    """The ``__getattr__`` of a package whose names live in modules that are slow to import.

    Args:
        package: its ``__name__``.
        homes: the module below the package that holds each name, or :data:`PACKAGE`.
    """

    def find(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        home = homes[name]
        try:
            if home == PACKAGE:
                return import_module(f"{package}.{name}")
            return getattr(import_module(f"{package}.{home}"), name)
        except ModuleNotFoundError as error:
            from mimiq.errors import missing_extra
            from mimiq.libraries import COMPILE_LIBRARIES

            library = (error.name or "").split(".")[0]
            if library in COMPILE_LIBRARIES:
                raise missing_extra(library, "compile") from error
            raise

    return find


class _Callable(ModuleType):
    """A package that is its one function as well: the function has the package's name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def make_callable(package: str) -> None:
    """Let ``mimiq.NAME(…)`` mean ``mimiq.NAME.NAME(…)``, whatever of the package is imported."""
    sys.modules[package].__class__ = _Callable
