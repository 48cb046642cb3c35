"""A plot of accuracy against what it costs, with the line of those that nothing dominates."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mimiq.runtime.report.axes import Axis, axis_title, drawing, grid, line, number, text_at
from mimiq.runtime.report.charts import NARROW
from mimiq.runtime.report.markup import append, element

_LETTER = 7.2  # a letter's width on average, or a bit more
_HEIGHT, _TOP, _LEFT, _RIGHT = 260.0, 34.0, 62.0, 24.0
_ROW = 16.0  # a name's height
_DOT = 5.0  # a dot's radius


@dataclass(frozen=True)
class Point:
    """One bundle.

    Attributes:
        name: beside its dot.
        x, y: what it costs, less being better, and how good it is, more being better.
        low, high: the interval of ``y``; equal to it where there is none.
        reference: full precision, drawn as a ring.
    """

    name: str
    x: float
    y: float
    low: float
    high: float
    reference: bool = False


def front(points: Sequence[Point]) -> list[Point]:
    """Those that no other beats, by growing ``x``; full precision is not among them."""
    bundles = [point for point in points if not point.reference]
    kept = [point for point in bundles if not any(_beats(other, point) for other in bundles)]
    return sorted(kept, key=lambda point: point.x)


def _beats(one: Point, other: Point) -> bool:
    return one.x <= other.x and one.y >= other.y and (one.x, one.y) != (other.x, other.y)


def scatter(points: Sequence[Point], title: str, *, axes: tuple[str, str], width: float) -> Element:
    """Dots with their names and intervals; the line steps from one to the next that is better.

    Args:
        points: at least one.
        title: read out to those who do not see it.
        axes: what x and y are.
        width: of the drawing.
    """
    across = Axis.over([0.0, *(p.x for p in points)], _LEFT, width - _RIGHT, few=width == NARROW)
    up = Axis.over([v for p in points for v in (p.low, p.high)], _HEIGHT, _TOP)
    drawn = drawing(width, _HEIGHT + 44, title)
    append(drawn, text_at(8, 16, axes[1]))
    for tick in up.ticks:
        y = up.at(tick)
        append(
            drawn,
            line(_LEFT, y, width - _RIGHT, y, "grid"),
            text_at(_LEFT - 8, y + 4, number(tick), anchor="end"),
        )
    grid(drawn, across, _TOP, _HEIGHT)
    axis_title(drawn, (_LEFT + width - _RIGHT) / 2, _HEIGHT + 38, axes[0])
    best = front(points)
    if len(best) > 1:
        append(drawn, element("polyline", points=_steps(best, across, up), class_="curve"))
    for point in points:
        append(drawn, *_dot(point, across, up, grey=point not in best))
    append(drawn, *_names(points, best, across, up, width))
    return drawn


def _steps(best: Sequence[Point], across: Axis, up: Axis) -> str:
    corners = [(best[0].x, best[0].y)]
    for point in best[1:]:
        corners += [(point.x, corners[-1][1]), (point.x, point.y)]
    return " ".join(f"{across.at(x):g},{up.at(y):g}" for x, y in corners)


def _dot(point: Point, across: Axis, up: Axis, *, grey: bool) -> list[Element]:
    x, y = across.at(point.x), up.at(point.y)
    quiet = " dominated" if grey else ""
    kind = "ring" if point.reference else f"dot{quiet}"
    whisker = line(x, up.at(point.low), x, up.at(point.high), f"whisker{quiet}")
    spread = [whisker] if point.low < point.high else []
    return [*spread, element("circle", cx=x, cy=y, r=_DOT, class_=kind)]


def _names(
    points: Sequence[Point], best: Sequence[Point], across: Axis, up: Axis, width: float
) -> list[Element]:
    """Names at the right of their dots, or left of them; lower where one would be hidden."""
    texts: list[Element] = []
    dots = [(across.at(point.x), up.at(point.y)) for point in points]
    taken = [(x - _DOT, x + _DOT, y) for x, y in dots]  # left, right, y
    for point in sorted(points, key=lambda p: up.at(p.y)):
        x, y, length = across.at(point.x), up.at(point.y), _LETTER * len(point.name)
        right = x + 10 + length <= width
        left = x + 10 if right else x - 10 - length
        while any(
            left < end and start < left + length and abs(y - other) < _ROW
            for start, end, other in taken
        ):
            y += 2.0
        taken.append((left, left + length, y))
        kind = "strong" if point in best else None
        anchor = None if right else "end"
        texts.append(
            text_at(x + 10 if right else x - 10, y + 4, point.name, anchor=anchor, kind=kind)
        )
    return texts
