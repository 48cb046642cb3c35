"""Bundles side by side as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from xml.etree.ElementTree import Element

from mimiq.runtime.evaluation.binary import words
from mimiq.runtime.report import charts
from mimiq.runtime.report.accuracy import points, words_of
from mimiq.runtime.report.comparison.candidates import FULL, Candidate
from mimiq.runtime.report.comparison.choice import Choice, Measure
from mimiq.runtime.report.comparison.scatter import Point, scatter
from mimiq.runtime.report.document import document
from mimiq.runtime.report.markup import Child, append, element, prose, table
from mimiq.runtime.report.terminal import megabytes

Network = tuple[str, str | None]


def comparison_page(
    networks: Mapping[Network, tuple[Sequence[Candidate], Choice]],
    failed: Mapping[str, str] | None = None,
    title: str | None = None,
) -> str:
    """The page.

    Args:
        networks: the bundles of each network, and what follows from them; a network of one bundle
            is shown without a choice.
        failed: by the name of what was to be made, why it was not.
        title: None for the networks' names.
    """
    names = list(dict.fromkeys(name for name, _ in networks))
    title = title or f"{', '.join(names)}: bundles compared"
    body = element("body", element("h1", title), class_="comparison")
    count = sum(len(found) for found, _ in networks.values())
    several = f", {len(networks)} networks" if len(networks) > 1 else ""
    append(body, element("p", f"{count} bundles{several}", class_="quiet"))
    if failed:
        append(body, element("h2", "Failed"))
        rows = [(name, why) for name, why in failed.items()]
        append(body, table((), rows))
    for (name, weights), (found, choice) in networks.items():
        if len(networks) > 1:
            alike = names.count(name) < len([of for of, _ in networks if of == name])
            append(body, element("h2", f"{name} ({(weights or '')[:8]})" if alike else name))
        append(body, *_network(found, choice, inner="h3" if len(networks) > 1 else "h2"))
    return document(title, body)


def _network(found: Sequence[Candidate], choice: Choice, *, inner: str) -> Iterator[Element]:
    if choice.recommended is not None:
        parts = [
            element("div", "Recommended", class_="name"),
            element("div", choice.sentence, class_="said"),
            element("div", choice.reason, class_="more"),
        ]
        yield element("div", *parts, class_="tile recommended")
    if choice.notes:
        yield element("ul", *(element("li", prose(note)) for note in choice.notes))
    if len(found) > 1:
        yield from _plots(found, choice)
    for heading, part in (
        ("Accuracy and size", accuracy_table(found, choice)),
        ("Latency", _latency(found)),
        ("Linears and convolutions by precision", _layers(found)),
    ):
        if part is not None:
            yield element(inner, heading)
            yield part


def accuracy_table(found: Sequence[Candidate], choice: Choice) -> Element:
    """A row a bundle: accuracy with its interval, agreement, cost, size."""
    rows: list[Sequence[Child]] = [
        (
            element("span", candidate.name, class_="quiet" if beaten else None),
            *cells(candidate),
            f"by {beaten}" if beaten else "",
        )
        for candidate in found
        for beaten in [choice.dominated.get(candidate.name)]
    ]
    return table((*headings(found), "dominated"), rows)


def headings(found: Sequence[Candidate]) -> list[str]:
    """Of :func:`cells`, with the bundle's name before them."""
    right = next(
        (words_of(c.report.accuracy).right for c in found if c.report.accuracy), words(False).right
    )
    return [
        "",
        f"{right} [95 %]",
        "points [95 %]",
        "same answer",
        "logit error",
        "probably lost",
        "size",
        "smaller",
    ]


def cells(candidate: Candidate) -> list[str]:
    """What was measured, for people; a dash where something was not."""
    report = candidate.report
    accuracy, held_out, near = report.accuracy, report.held_out, report.similarity
    missing = "–"
    if accuracy is not None:
        low, high = accuracy.accuracy.top1_interval
        first = [
            f"{accuracy.accuracy.top1:.2f} % [{low:.1f}, {high:.1f}]",
            points(accuracy),
            f"{100 * accuracy.agreement:.1f} %",
            f"{100 * accuracy.logit_error:.2f} %",
        ]
    elif held_out is not None:
        same, error = f"{100 * held_out.agreement:.1f} %", f"{100 * held_out.logit_error:.2f} %"
        first = [missing, missing, same, error]
    elif near is not None:
        first = [missing, missing, f"cosine {near.mean:.4f}", missing]
    else:
        first = [missing] * 4
    return [
        *first,
        f"{held_out.points:.2f}" if held_out is not None else missing,
        megabytes(candidate.bytes) if candidate.bytes else missing,
        f"{candidate.smaller:.2f}×" if candidate.smaller else missing,
    ]


def latency_rows(found: Sequence[Candidate]) -> list[list[str]]:
    """A row for each place and batch size: a bundle's milliseconds, and its speed."""
    places = dict.fromkeys((t.where, t.batch) for each in found for t in each.timings)
    rows = []
    for where, batch in places:
        timings = [candidate.timing(where, batch) for candidate in found]
        rows.append(
            [
                f"batch {batch}, {where}",
                *(f"{t.p50_ms:.2f} ms, {t.speed:.2f}×" if t else "–" for t in timings),
            ]
        )
    return rows


def layer_rows(found: Sequence[Candidate]) -> list[list[str]]:
    """A row for each kind of layer: how many of them each bundle has."""
    kinds = dict.fromkeys(kind for candidate in found for kind in candidate.layers)
    return [
        [kind, *(str(candidate.layers.get(kind, "–")) for candidate in found)] for kind in kinds
    ]


def _latency(found: Sequence[Candidate]) -> Element | None:
    rows: list[Sequence[Child]] = [
        [element("span", first, class_="words"), *others] for first, *others in latency_rows(found)
    ]
    made = element("div")
    if not rows:
        return None
    text = f"Median time of a run, and speed against {FULL} in turns with it in the same run."
    append(made, table(("", *(c.name for c in found)), rows), element("p", text, class_="quiet"))
    return made


def _layers(found: Sequence[Candidate]) -> Element | None:
    rows = layer_rows(found)
    return table(("", *(c.name for c in found)), rows) if rows else None


def _plots(found: Sequence[Candidate], choice: Choice) -> Iterator[Element]:
    measure = choice.measure
    if measure is None:
        return
    if choice.place is not None:
        times = {c.name: t.speed for c in found if (t := choice.timing(c)) is not None}
        drawn = [_point(c, 100 / times[c.name], measure) for c in found]
        full = Point(FULL, 100.0, measure.full, measure.full, measure.full, reference=True)
        batch, where = choice.place.batch, choice.place.where
        yield _plot(
            [*drawn, full],
            "Accuracy against latency",
            (f"time of a batch of {batch}, % of {FULL}'s", measure.axis),
            f"Less time and more accuracy are better: {where}, batch {batch}, each in turns with "
            f"{FULL} (the ring) in one run.",
        )
    sized = [c for c in found if c.bytes]
    if len(sized) == len(found):
        drawn = [_point(c, (c.bytes or 0) / 1e6, measure) for c in found]
        before = found[0].report.size.reference_bytes
        if before:
            ring = Point(FULL, before / 1e6, measure.full, measure.full, measure.full, True)
            drawn.append(ring)
        axes = ("size of the model file, MB", measure.axis)
        caption = "Smaller and more accurate are better."
        yield _plot(drawn, "Accuracy against size", axes, caption)


def _point(candidate: Candidate, x: float, measure: Measure) -> Point:
    y, accuracy = measure.of(candidate.report), candidate.report.accuracy
    low, high = (y, y)
    if accuracy is not None and not measure.estimated:
        # Of the difference from full precision on the same images, which is what is compared.
        lost, gained = accuracy.drop_interval[1], accuracy.drop_interval[0]
        low, high = measure.full - lost, measure.full - gained
    return Point(candidate.name, x, y, low, high)


def _plot(points: Sequence[Point], title: str, axes: tuple[str, str], caption: str) -> Element:
    intervals = any(point.low < point.high for point in points)
    whiskers = (
        " Whiskers: the paired 95 % interval of the difference from full precision."
        if intervals
        else ""
    )
    return charts.figure(
        lambda width: scatter(points, title, axes=axes, width=width),
        f"{title}. {caption} Grey: another is at least as good in both.{whiskers}",
    )
