"""Kinds of values on the command line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


class Option(click.Option):
    """An option that stands under a heading in the help."""

    def __init__(self, *names: Any, section: str = "General", **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.section = section


class _Listed(click.ParamType[tuple[Any, ...]]):
    """Values between commas."""

    def __init__(self, name: str, parse: Callable[[list[str]], Any], wanted: str) -> None:
        self.name = name
        self._parse = parse
        self._wanted = wanted

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[Any, ...]:
        if not isinstance(value, str):
            return tuple(value)
        try:
            return tuple(self._parse([part.strip() for part in value.split(",")]))
        except ValueError:
            self.fail(f"{value!r} is not {self._wanted}.", param, ctx)


def _batches(parts: list[str]) -> list[int]:
    values = [int(part) for part in parts if parts != [""]]
    if any(value < 1 for value in values):
        raise ValueError
    return list(dict.fromkeys(values))


def _triple(parts: list[str]) -> list[float]:
    first, second, third = (float(part) for part in parts)
    return [first, second, third]


def _profile(parts: list[str]) -> list[int]:
    smallest, typical, largest = _whole(parts)
    return [smallest, typical, largest]


def _whole(parts: list[str]) -> list[int]:
    return [int(part) for part in parts]


BATCHES = _Listed("N,…", _batches, "a list of batch sizes such as 1,8,32")
TRIPLE = _Listed("R,G,B", _triple, "three numbers such as 0.5,0.5,0.5")
PROFILE = _Listed("MIN,OPT,MAX", _profile, "three batch sizes such as 1,8,128")
NAMES = _Listed("NAME,…", lambda parts: [part for part in parts if part], "a list of names")

# Existence is checked where the value is used: with our own errors, and their next steps.
PATH = click.Path(path_type=Path)
