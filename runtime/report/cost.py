"""The page's section on what quantisation costs on images without labels."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimiq.runtime.evaluation.binary import words
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.report.markup import element, table

_KINDS = {"synthetic": "synthetic images", "scenes": "random scenes", "images": "your images"}


def cost_parts(found: HeldOut) -> list[Element]:
    """A row for each kind of images, and what all of them suggest."""
    moved = found.probability_difference
    low, high = (100 * bound for bound in found.agreement_interval)
    rows = [
        (
            _KINDS.get(kind, kind),
            str(cost.count),
            f"{100 * cost.agreeing / cost.count:.1f} %",
            f"{100 * cost.logit_error:.2f} %",
        )
        for kind, cost in found.kinds.items()
    ]
    text = (
        f"Nothing was fitted to these images. Quantised and full-precision networks give the same "
        f"answer on {100 * found.agreement:.1f} % of them (95 % interval {low:.1f} to {high:.1f}); "
        f"about {found.points:.1f} {words(moved is not None).points} are probably "
        f"lost. Networks are less sure of "
        "such images than of photographs, and change their answer on them more often."
    )
    if moved is not None:
        text += f" The probability differs by {moved:.4f} on average."
    return [
        table(("images", "count", "same answer", "logit error"), rows),
        element("p", text, class_="quiet"),
    ]
