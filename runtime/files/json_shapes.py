"""What the entries of a JSON file must be, and the path of the first that is something else."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

Shape = Callable[[Any, str], None]
"""Passes a value at a path (``latency[3].batch``), or raises :class:`Misfit`."""

# What is larger, or nearer to zero, overflows where it is scaled, squared or divided by.
_LARGEST, _SMALLEST = 1e100, 1e-100
_LARGEST_COUNT = 2**63 - 1


class Misfit(ValueError):
    """An entry that is not what it must be: a clause that names it."""


def number(value: Any, at: str) -> None:
    """A finite one."""
    if not _is_number(value):
        raise _misfit(value, at, "a finite number")


def positive(value: Any, at: str) -> None:
    if not _is_number(value) or value < _SMALLEST:
        raise _misfit(value, at, "a finite number above 0")


def count(least: int = 0) -> Shape:
    """A whole number, no smaller than ``least``."""

    def shape(value: Any, at: str) -> None:
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not whole or not least <= value <= _LARGEST_COUNT:
            raise _misfit(value, at, f"a whole number of {least} or more")

    return shape


def text(value: Any, at: str) -> None:
    if not isinstance(value, str):
        raise _misfit(value, at, "a text")


def flag(value: Any, at: str) -> None:
    if not isinstance(value, bool):
        raise _misfit(value, at, "true or false")


def optional(shape: Shape) -> Shape:
    """``shape``, or null."""

    def shape_or_none(value: Any, at: str) -> None:
        if value is not None:
            shape(value, at)

    return shape_or_none


def record(
    needed: Mapping[str, Shape], more: Mapping[str, Shape] | None = None, *rules: Shape
) -> Shape:
    """An object; entries that are not named may be anything.

    Args:
        needed: by key, what must be there.
        more: by key, what may be absent or null.
        rules: that the object keeps as a whole, once its entries are right.
    """
    absent = {key: optional(shape) for key, shape in (more or {}).items()}

    def shape(value: Any, at: str) -> None:
        _require_object(value, at)
        for key, each in needed.items():
            if key not in value:
                raise Misfit(f"{_below(at, key)} is missing")
            each(value[key], _below(at, key))
        for key, each in absent.items():
            each(value.get(key), _below(at, key))
        for rule in rules:
            rule(value, at)

    return shape


def record_of(shape: Shape, least: int = 0) -> Shape:
    """An object with any keys, ``least`` of them or more, and a ``shape`` under each."""

    def whole(value: Any, at: str) -> None:
        _require_object(value, at)
        if len(value) < least:
            raise Misfit(f"{at} is empty")
        for key, each in value.items():
            shape(each, _below(at, key))

    return whole


def list_of(shape: Shape, least: int = 0) -> Shape:
    """A list of ``least`` or more."""

    def whole(value: Any, at: str) -> None:
        if not isinstance(value, list):
            raise _misfit(value, at, "a list")
        if len(value) < least:
            raise Misfit(f"{at} is empty")
        for index, each in enumerate(value):
            shape(each, f"{at}[{index}]")

    return whole


def pair(first: Shape, second: Shape) -> Shape:
    """A list of two."""

    def whole(value: Any, at: str) -> None:
        if not isinstance(value, list) or len(value) != 2:
            raise _misfit(value, at, "a list of two")
        first(value[0], f"{at}[0]")
        second(value[1], f"{at}[1]")

    return whole


def at_most(bound: str, *keys: str) -> Shape:
    """Of an object: its counts ``keys`` are no larger than ``bound``, which may lie deeper."""

    def rule(value: Any, at: str) -> None:
        most = value
        for key in bound.split("."):
            most = most[key]
        for key in keys:
            if value[key] > most:
                raise Misfit(
                    f"{_below(at, key)} is {value[key]}, and {_below(at, bound)} is {most}"
                )

    return rule


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    # Compared as what it is: an integer may be too large for a float.
    return -_LARGEST <= value <= _LARGEST and math.isfinite(value)


def _require_object(value: Any, at: str) -> None:
    if not isinstance(value, Mapping):
        raise _misfit(value, at, "an object")


def _below(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _misfit(value: Any, at: str, wanted: str) -> Misfit:
    return Misfit(f"{at or 'it'} is {_said(value)}, not {wanted}")


def _said(value: Any) -> str:
    """The value as JSON has it where it is short, else what it is."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case list():
            return f"a list of {len(value)}"
        case Mapping():
            return "an object"
        case str():
            return f"the text {value[:40]!r}{'…' if len(value) > 40 else ''}"
        case int() if abs(value) > _LARGEST_COUNT:
            return "beyond all bounds"  # of digits there may be more than Python writes
    return f"{value}"
