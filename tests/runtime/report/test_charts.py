"""Charts: every mark within the drawing, in the place that its value says."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from hypothesis import given
from hypothesis import strategies as st

from mimiq.runtime.report.charts import NARROW, WIDE, Bar, bars, curve, interval

NUMBERS = st.floats(-1e6, 1e6, allow_nan=False).map(lambda value: round(value, 3))
WIDTHS = st.sampled_from((NARROW, WIDE))
POSITIVE = st.floats(1e-3, 1e6).map(lambda value: round(value, 4))


def sizes(drawing: Element) -> tuple[float, float]:
    _, _, width, height = map(float, drawing.attrib["viewBox"].split())
    return width, height


def assert_within(drawing: Element) -> None:
    width, height = sizes(drawing)
    for part in drawing.iter():
        for name, limit in (("x", width), ("cx", width), ("x1", width), ("x2", width)):
            assert 0 <= float(part.get(name, 0)) <= limit
        for name in ("y", "cy", "y1", "y2"):
            assert 0 <= float(part.get(name, 0)) <= height


def places(drawing: Element, kind: str, name: str) -> list[float]:
    return [float(p.attrib[name]) for p in drawing.iter() if kind in p.get("class", "").split()]


@given(NUMBERS, POSITIVE, POSITIVE, WIDTHS)
def test_an_interval_lies_around_its_value(
    value: float, below: float, above: float, wide: float
) -> None:
    low, high = value - below, value + above
    drawing = interval(value, low, high, "label", "title", axis="points", width=wide)
    assert "points" in [part.text for part in drawing.iter("text")]
    assert_within(drawing)
    (dot,) = places(drawing, "dot", "cx")
    (zero,) = places(drawing, "mark", "x1")
    left, right = min(places(drawing, "whisker", "x1")), max(places(drawing, "whisker", "x2"))
    assert left <= dot <= right
    assert (dot >= zero) if value >= 0 else (dot <= zero)


@given(st.lists(POSITIVE, min_size=1, max_size=8), WIDTHS)
def test_bars_are_as_long_as_their_values(values: list[float], wide: float) -> None:
    rows = [Bar("b", value, "l", value / 2, value * 2) for value in values]
    drawing = bars(rows, 1.0, "title", axis="times as fast", width=wide)
    assert "times as fast" in [part.text for part in drawing.iter("text")]
    assert_within(drawing)
    widths = places(drawing, "bar", "width")
    (mark,) = places(drawing, "mark", "x1")
    start = places(drawing, "bar", "x")[0]
    for value, width in zip(values, widths, strict=True):
        assert abs(width - value * (mark - start)) <= 0.01 * (1 + value)


@given(st.lists(POSITIVE, min_size=1, max_size=20), WIDTHS)
def test_a_curve_marks_its_best_point(losses: list[float], wide: float) -> None:
    best = losses.index(min(losses))
    points = [(50.0 * step, loss) for step, loss in enumerate(losses)]
    drawing = curve(points, best, "title", axes=("step", "loss"), width=wide)
    assert {"step", "loss"} <= {part.text for part in drawing.iter("text")}
    assert_within(drawing)
    (line,) = [part for part in drawing.iter() if part.tag == "polyline"]
    drawn = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(drawn) == len(losses)
    assert drawn[best] == (places(drawing, "dot", "cx")[0], places(drawing, "dot", "cy")[0])
    assert drawn[best][1] == max(y for _, y in drawn)  # the lowest loss is drawn lowest
