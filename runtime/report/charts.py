"""The page's few charts, as SVG that takes its colours from the page's style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mimiq.runtime.report.axes import Axis, axis_title, drawing, grid, line, number, text_at
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
    across = Axis.over(reach, left, width - right, few=width == NARROW)
    drawn = drawing(width, bottom + 42, title)
    grid(drawn, across, top, bottom)
    axis_title(drawn, (left + width - right) / 2, bottom + 36, axis)
    for index, row in enumerate(rows):
        middle = top + height * (index + 0.5)
        append(
            drawn,
            text_at(left - 10, middle + 4, row.name, anchor="end"),
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
            drawn,
            *(_whisker(across, row.low, row.high, middle) if row.low < row.high else ()),
            text_at(end + 8, middle + 4, row.label, kind="strong"),
        )
    if mark is not None:
        append(drawn, line(across.at(mark), top, across.at(mark), bottom, "mark"))
    return drawn


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
    across = Axis.over([0.0, low, high, value], 20.0, width - 20, few=width == NARROW)
    drawn = drawing(width, 110, title)
    grid(drawn, across, 34, 66)
    axis_title(drawn, width / 2, 104, axis)
    append(
        drawn,
        line(across.at(0), 28, across.at(0), 66, "mark"),
        *_whisker(across, low, high, 50),
        element("circle", cx=across.at(value), cy=50.0, r=6.0, class_="dot"),
        text_at(
            min(max(across.at(value), 90), width - 90), 20, label, anchor="middle", kind="strong"
        ),
    )
    return drawn


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
    across = Axis.over([x for x, _ in points], 60.0, width - 30, few=width == NARROW)
    up = Axis.over([y for _, y in points], height, top)
    drawn = drawing(width, height + 44, title)
    axis_title(drawn, (60 + width - 30) / 2, height + 38, axes[0])
    append(drawn, text_at(8, 16, axes[1]))
    for tick in up.ticks:
        append(
            drawn,
            line(60, up.at(tick), width - 30, up.at(tick), "grid"),
            text_at(52, up.at(tick) + 4, number(tick), anchor="end"),
        )
    for tick in across.ticks:
        append(drawn, text_at(across.at(tick), height + 20, number(tick), anchor="middle"))
    path = " ".join(f"{across.at(x):g},{up.at(y):g}" for x, y in points)
    x, y = points[best]
    append(
        drawn,
        element("polyline", points=path, class_="curve"),
        element("circle", cx=across.at(x), cy=up.at(y), r=5.0, class_="dot"),
    )
    return drawn


def _whisker(axis: Axis, low: float, high: float, y: float) -> list[Element]:
    left, right = axis.at(low), axis.at(high)
    return [
        line(left, y, right, y, "whisker"),
        line(left, y - 5, left, y + 5, "whisker"),
        line(right, y - 5, right, y + 5, "whisker"),
    ]
