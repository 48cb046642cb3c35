"""The page's section on accuracy: against labels, and which classes pay for it."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from mimiq.runtime.evaluation.binary import Words, words
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.report import charts
from mimiq.runtime.report.markup import element, table
from mimiq.runtime.report.report import Report


def accuracy_parts(
    report: Report, found: Comparison, labels: Sequence[str] | None
) -> list[Element]:
    """The drop with its interval, top-1 and top-5, and the classes that lost most."""
    low, high = found.drop_interval
    unit, moved = words_of(found).points, found.probability_difference
    kinds = [(words_of(found).right, found.accuracy.top1, found.reference.top1)]
    if moved is None:
        kinds.append(("top-5", found.accuracy.top5, found.reference.top5))
    rows = [
        (name, f"{before:.2f} %", f"{ours:.2f} %", signed(ours - before))
        for name, ours, before in kinds
    ]
    if moved is not None:
        rows.append(("mean difference of the probability", "", f"{moved:.4f}", ""))
    caption = (
        f"{unit.capitalize()} against full precision on {report.dataset}, with the "
        f"paired 95 % interval of {found.count} images. Dashed: no change."
    )
    parts = [
        charts.figure(
            lambda width: charts.interval(
                0 - found.drop,
                0 - high,
                0 - low,
                f"{signed(0 - found.drop)} {unit}",
                f"{unit.capitalize()} gained or lost, with the 95 % interval",
                axis=f"{unit} against full precision",
                width=width,
            ),
            caption,
        ),
        table(("", "full precision", report.label, "points"), rows),
    ]
    if simulation := report.simulation:
        same = "names the same class as" if moved is None else "is on the same side of 0.5 as"
        text = (
            f"The exported graph {same} the simulated network on "
            f"{100 * simulation.agreement:.2f} % of {simulation.count} images."
        )
        parts.append(element("p", text, class_="quiet"))
    return parts + _classes(found, labels)


def _classes(found: Comparison, labels: Sequence[str] | None) -> list[Element]:
    if not found.lost:
        return []

    def name(label: int) -> str:
        known = labels is not None and label < len(labels)
        return labels[label] if known and labels is not None else f"class {label}"

    rows = [
        (
            name(change.label),
            f"{change.before} of {change.count}",
            f"{change.now} of {change.count}",
            element(
                "span",
                ", ".join(f"{name(label)} ({times})" for label, times in change.instead),
                class_="words",
            ),
        )
        for change in found.lost
    ]
    few = max(change.count for change in found.lost) < 20
    doubt = " With so few images a class, which ones these are is largely chance." if few else ""
    text = f"The classes that lost most images, and what these are taken for now.{doubt}"
    headings = ("class", "right in full precision", "right now", "taken for")
    return [element("h3", "Classes that lost"), element("p", text), table(headings, rows)]


def words_of(found: Comparison) -> Words:
    """What right and wrong are called."""
    return words(found.probability_difference is not None)


def points(found: Comparison) -> str:
    """Points gained or lost, with their interval."""
    low, high = found.drop_interval
    return f"{signed(0 - found.drop)} [{signed(0 - high)}, {signed(0 - low)}]"


def signed(value: float) -> str:
    """With its sign, to two digits."""
    return f"{round(value, 2) + 0:+.2f}".replace("-", "−")  # -0.0 + 0 is 0.0
