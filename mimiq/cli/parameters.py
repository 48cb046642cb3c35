"""Kinds of values on the command line."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

LARGEST = 2**31 - 1
"""What a whole number may be at most where nothing smaller suggests itself: fits every library."""
_LONGEST_SIDE = 2**16


class Number(click.FloatRange):
    """A finite number: no limit holds, and none is missed, where it is compared with NaN."""

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


class Whole(click.IntRange):
    """A whole number that libraries can take: ``LARGEST`` at most, where no ``max`` is given."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = int(super().convert(value, param, ctx))
        if self.max is None and number > LARGEST:
            self.fail(_too_large(number, LARGEST), param, ctx)
        return number


class _TooLarge(ValueError):
    """Its text says what, and how much is allowed."""


def _too_large(number: int, most: int) -> str:
    return f"{number} is too large; at most {most} can be given."


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
        except _TooLarge as error:
            self.fail(str(error), param, ctx)
        except ValueError:
            self.fail(f"{value!r} is not {self._wanted}.", param, ctx)


class _Size(click.ParamType[tuple[int, int]]):
    """Height and width: one number for both, or two with an x between them."""

    name = "HxW"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, int]:
        if not isinstance(value, str):
            return (value, value) if isinstance(value, int) else tuple(value)
        found = re.fullmatch(r"(\d{1,99})(?:[x×](\d{1,99}))?", value.strip().lower())
        size = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
        if min(size) < 1:
            self.fail(f"{value!r} is not a size such as 224 or 112x448.", param, ctx)
        if max(size) > _LONGEST_SIDE:
            self.fail(_too_large(max(size), _LONGEST_SIDE), param, ctx)
        return size


class _Arguments(click.ParamType[dict[str, Any]]):
    """Arguments of a constructor: ``key=value`` between commas, values as JSON or plain words."""

    name = "KEY=VALUE,…"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> dict[str, Any]:
        if not isinstance(value, str):
            return dict(value)
        found: dict[str, Any] = {}
        # A comma inside brackets belongs to a value.
        for part in re.split(r",(?![^\[(]*[\])])", value):
            key, equals, text = (piece.strip() for piece in part.partition("="))
            if not equals or not key.isidentifier():
                self.fail(f"{part!r} is not KEY=VALUE, such as num_heads=12.", param, ctx)
            found[key] = _value(text)
        return found


def _value(text: str) -> Any:
    named = {"true": True, "false": False, "none": None, "null": None}
    if text.lower() in named:
        return named[text.lower()]
    try:
        return json.loads(text)
    except ValueError:
        return text


def _batches(parts: list[str]) -> list[int]:
    values = _whole(parts) if parts != [""] else []
    if any(value < 1 for value in values):
        raise ValueError
    return list(dict.fromkeys(values))


def _channels(parts: list[str]) -> list[float]:
    values = [float(part) for part in parts]
    if not all(map(math.isfinite, values)):
        raise ValueError
    return values


def _profile(parts: list[str]) -> list[int]:
    smallest, typical, largest = _whole(parts)
    return [smallest, typical, largest]


def _whole(parts: list[str]) -> list[int]:
    values = [int(part) for part in parts]
    if max(values) > LARGEST:
        raise _TooLarge(_too_large(max(values), LARGEST))
    return values


BATCHES = _Listed("N,…", _batches, "a list of batch sizes such as 1,8,32")
CHANNELS = _Listed("R,G,B", _channels, "numbers such as 0.5,0.5,0.5")
PROFILE = _Listed("MIN,OPT,MAX", _profile, "three batch sizes such as 1,8,128")
SIZE = _Size()
ARGUMENTS = _Arguments()
NAMES = _Listed("NAME,…", lambda parts: [part for part in parts if part], "a list of names")


# Existence is checked where the value is used: with our own errors, and their next steps.
class _Path(click.Path):
    """A path; empty text, as of a variable that is not set, is none and not the current folder."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value == "":
            self.fail("An empty text names no file or folder.", param, ctx)
        return super().convert(value, param, ctx)


PATH = _Path(path_type=Path)
