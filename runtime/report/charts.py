"""The page's few charts, as SVG that takes its colours from the page's style."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mimiq.runtime.report.markup import append, element

WIDE, NARROW = 680.0, 340.0  # drawings: one is shown, by the width of the window
_LETTER = 7.2  # a letter's width on average, or a bit more
_MARGINS = {WIDE: (170.0, 80.0), NARROW: (104.0, 56.0)}  # left and right, beside bars


def figure(draw: Callable[[float], Element], caption: str) -> Element:
    """A drawing in both widths, with what it shows in words.

    Args:
        draw: draws in the width that it is given.
        caption: below it.
    """
    drawings = [
        element("div", draw(width), class_=name)
        for width, name in ((WIDE, "wide"), (NARROW, "narrow"))
    ]
    return element("figure", *drawings, element("figcaption", caption))


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
    def over(
        cls, values: Sequence[float], start: float, stop: float, *, few: bool = False
    ) -> _Axis:
        low, high = min(values), max(values)
        step = _round_step((high - low) or abs(high) or 1.0, 4 if few else 8)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        if low == high:
            high += step
        count = round((high - low) / step)
        ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
        return cls(low, high, start, stop, ticks)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def bars(
    rows: Sequence[Bar], mark: float | None, title: str, *, axis: str, width: float = WIDE
) -> Element:
    """Horizontal bars from zero, with a line at ``mark``.

    Args:
        rows: at least one; a whisker is drawn where it has a length.
        mark: a value to compare with; None for none.
        title: read out to those who do not see it.
        axis: what the lengths are.
        width: of the drawing.
    """
    height, top = 30.0, 6.0
    bottom = top + height * len(rows)
    left, right = _MARGINS[width]
    longest = max(len(row.name) for row in rows)
    left = min(max(left, _LETTER * longest + 14), 0.6 * width)
    reach = [0.0, *([] if mark is None else [mark]), *(max(row.value, row.high) for row in rows)]
    across = _Axis.over(reach, left, width - right, few=width == NARROW)
    drawing = _drawing(width, bottom + 42, title)
    _grid(drawing, across, top, bottom)
    _title(drawing, (left + width - right) / 2, bottom + 36, axis)
    for index, row in enumerate(rows):
        middle = top + height * (index + 0.5)
        append(
            drawing,
            _text(left - 10, middle + 4, row.name, anchor="end"),
            element(
                "rect",
                x=across.at(0),
                y=middle - 8,
                width=across.at(row.value) - across.at(0),
                height=16.0,
                rx=2.0,
                class_="bar",
            ),
        )
        end = across.at(max(row.value, row.high))
        append(
            drawing,
            *(_whisker(across, row.low, row.high, middle) if row.low < row.high else ()),
            _text(end + 8, middle + 4, row.label, kind="strong"),
        )
    if mark is not None:
        append(drawing, _line(across.at(mark), top, across.at(mark), bottom, "mark"))
    return drawing


def interval(
    value: float,
    low: float,
    high: float,
    label: str,
    title: str,
    *,
    axis: str,
    width: float = WIDE,
) -> Element:
    """One estimate with its interval, on an axis that holds zero, and a line there."""
    across = _Axis.over([0.0, low, high, value], 20.0, width - 20, few=width == NARROW)
    drawing = _drawing(width, 110, title)
    _grid(drawing, across, 34, 66)
    _title(drawing, width / 2, 104, axis)
    append(
        drawing,
        _line(across.at(0), 28, across.at(0), 66, "mark"),
        *_whisker(across, low, high, 50),
        element("circle", cx=across.at(value), cy=50.0, r=6.0, class_="dot"),
        _text(
            min(max(across.at(value), 90), width - 90), 20, label, anchor="middle", kind="strong"
        ),
    )
    return drawing


def curve(
    points: Sequence[tuple[float, float]],
    best: int,
    title: str,
    *,
    axes: tuple[str, str],
    width: float = WIDE,
) -> Element:
    """A line through ``points`` (x, y), x growing, with a dot at ``points[best]``.

    Args:
        axes: what x and y are.
    """
    height, top = 220.0, 34.0
    across = _Axis.over([x for x, _ in points], 60.0, width - 30, few=width == NARROW)
    up = _Axis.over([y for _, y in points], height, top)
    drawing = _drawing(width, height + 44, title)
    _title(drawing, (60 + width - 30) / 2, height + 38, axes[0])
    append(drawing, _text(8, 16, axes[1]))
    for tick in up.ticks:
        append(
            drawing,
            _line(60, up.at(tick), width - 30, up.at(tick), "grid"),
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


def _drawing(width: float, height: float, title: str) -> Element:
    return element(
        "svg",
        element("title", title),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def _title(drawing: Element, x: float, y: float, text: str) -> None:
    append(drawing, _text(x, y, text, anchor="middle"))


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


def _round_step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten: at most ``most`` of them make ``span``, and no fewer than
    are needed for that.
    """
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
