"""The page's few charts, as SVG that takes its colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mimiq.runtime.report.markup import append, element

_WIDTH, _LEFT, _RIGHT = 680.0, 170.0, 80.0  # of the drawing; of its margins


@dataclass(frozen=True)
class Bar:
    """One bar, from zero.

    Attributes:
        name: at its left.
        value: its length.
        label: at its right.
        low, high: of a whisker at its end.
    """

    name: str
    value: float
    label: str
    low: float
    high: float


@dataclass(frozen=True)
class _Axis:
    """From values to places, between round numbers that hold all values."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float) -> _Axis:
        low, high = min(values), max(values)
        step = _round_step((high - low) or abs(high) or 1.0)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        if low == high:
            high += step
        count = round((high - low) / step)
        ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
        return cls(low, high, start, stop, ticks)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def bars(rows: Sequence[Bar], mark: float, title: str) -> Element:
    """Horizontal bars from zero, with a line at ``mark``.

    Args:
        rows: at least one.
        title: read out to those who do not see it.
    """
    height, top = 30.0, 6.0
    bottom = top + height * len(rows)
    reach = [0.0, mark, *(max(row.value, row.high) for row in rows)]
    axis = _Axis.over(reach, _LEFT, _WIDTH - _RIGHT)
    drawing = _drawing(bottom + 24, title)
    _grid(drawing, axis, top, bottom)
    for index, row in enumerate(rows):
        middle = top + height * (index + 0.5)
        append(
            drawing,
            _text(_LEFT - 10, middle + 4, row.name, anchor="end"),
            element(
                "rect",
                x=axis.at(0),
                y=middle - 8,
                width=axis.at(row.value) - axis.at(0),
                height=16.0,
                rx=2.0,
                class_="bar",
            ),
        )
        end = axis.at(max(row.value, row.high))
        append(
            drawing,
            *_whisker(axis, row.low, row.high, middle),
            _text(end + 8, middle + 4, row.label, kind="strong"),
        )
    append(drawing, _line(axis.at(mark), top, axis.at(mark), bottom, "mark"))
    return drawing


def interval(value: float, low: float, high: float, label: str, title: str) -> Element:
    """One estimate with its interval, on an axis that holds zero, and a line there."""
    axis = _Axis.over([0.0, low, high, value], 20.0, _WIDTH - 20)
    drawing = _drawing(92, title)
    _grid(drawing, axis, 34, 66)
    append(
        drawing,
        _line(axis.at(0), 28, axis.at(0), 66, "mark"),
        *_whisker(axis, low, high, 50),
        element("circle", cx=axis.at(value), cy=50.0, r=6.0, class_="dot"),
        _text(min(max(axis.at(value), 90), _WIDTH - 90), 20, label, anchor="middle", kind="strong"),
    )
    return drawing


def curve(points: Sequence[tuple[float, float]], best: int, title: str) -> Element:
    """A line through ``points`` (x, y), x growing, with a dot at ``points[best]``."""
    height, top = 200.0, 14.0
    across = _Axis.over([x for x, _ in points], 60.0, _WIDTH - 30)
    up = _Axis.over([y for _, y in points], height, top)
    drawing = _drawing(height + 26, title)
    for tick in up.ticks:
        append(
            drawing,
            _line(60, up.at(tick), _WIDTH - 30, up.at(tick), "grid"),
            _text(52, up.at(tick) + 4, _number(tick), anchor="end"),
        )
    for tick in across.ticks:
        append(drawing, _text(across.at(tick), height + 20, _number(tick), anchor="middle"))
    path = " ".join(f"{across.at(x):g},{up.at(y):g}" for x, y in points)
    x, y = points[best]
    append(
        drawing,
        element("polyline", points=path, class_="curve"),
        element("circle", cx=across.at(x), cy=up.at(y), r=5.0, class_="dot"),
    )
    return drawing


def _drawing(height: float, title: str) -> Element:
    return element(
        "svg",
        element("title", title),
        viewBox=f"0 0 {_WIDTH:g} {height:g}",
        role="img",
    )


def _grid(drawing: Element, axis: _Axis, top: float, bottom: float) -> None:
    for tick in axis.ticks:
        x = axis.at(tick)
        append(
            drawing,
            _line(x, top, x, bottom, "grid"),
            _text(x, bottom + 17, _number(tick), anchor="middle"),
        )


def _whisker(axis: _Axis, low: float, high: float, y: float) -> list[Element]:
    left, right = axis.at(low), axis.at(high)
    return [
        _line(left, y, right, y, "whisker"),
        _line(left, y - 5, left, y + 5, "whisker"),
        _line(right, y - 5, right, y + 5, "whisker"),
    ]


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _text(
    x: float, y: float, text: str, *, anchor: str | None = None, kind: str | None = None
) -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def _number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def _round_step(span: float) -> float:
    """1, 2 or 5 times a power of ten: four to ten of them make ``span``."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= 8)
