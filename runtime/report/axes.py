"""What the page's drawings are made of: axes between round numbers, lines and words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.etree.ElementTree import Element

from mimiq.runtime.report.markup import append, element

_ALIKE = 1e-9  # of the larger: two values that are this near to each other are one on an axis
_TINY = 1e-200  # what is smaller is zero on an axis


@dataclass(frozen=True)
class Axis:
    """From values to places, between round numbers that hold all values."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], start: float, stop: float, *, few: bool = False) -> Axis:
        low, high = min(values), max(values)
        span, size = high - low, max(abs(low), abs(high))
        if span <= _ALIKE * size:  # steps of such a span would be lost in rounding
            span = size
        step = round_step(span if span > _TINY else 1.0, 4 if few else 8)
        low, high = math.floor(low / step) * step, math.ceil(high / step) * step
        if low == high:
            high += step
        count = round((high - low) / step)
        ticks = tuple(round(low + index * step, 10) for index in range(count + 1))
        return cls(low, high, start, stop, ticks)

    def at(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return round(self.start + share * (self.stop - self.start), 2)


def drawing(width: float, height: float, title: str) -> Element:
    return element(
        "svg",
        element("title", title),
        viewBox=f"0 0 {width:g} {height:g}",
        role="img",
    )


def axis_title(drawn: Element, x: float, y: float, text: str) -> None:
    append(drawn, text_at(x, y, text, anchor="middle"))


def grid(drawn: Element, axis: Axis, top: float, bottom: float) -> None:
    for tick in axis.ticks:
        x = axis.at(tick)
        append(
            drawn,
            line(x, top, x, bottom, "grid"),
            text_at(x, bottom + 17, number(tick), anchor="middle"),
        )


def line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Element:
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def text_at(
    x: float, y: float, text: str, *, anchor: str | None = None, kind: str | None = None
) -> Element:
    return element("text", text, x=x, y=y, text_anchor=anchor, class_=kind)


def number(value: float) -> str:
    return f"{value:g}".replace("-", "−")


def round_step(span: float, most: int) -> float:
    """1, 2 or 5 times a power of ten: at most ``most`` of them make ``span``, and no fewer than
    are needed for that.
    """
    power = 10.0 ** math.floor(math.log10(span / most))
    return next(power * factor for factor in (1, 2, 5, 10) if span / (power * factor) <= most)
