"""The page's section on layers: what rounding each of them alone does to the answer."""

from __future__ import annotations

from collections.abc import Mapping
from xml.etree.ElementTree import Element

from mimiq.runtime.report import charts

_SHOWN = 12


def layer_parts(errors: Mapping[str, float]) -> list[Element]:
    """A bar for each of the layers that cost most.

    Args:
        errors: squared error of the answer over its variance, by the layer's name; one at least.
    """
    worst = sorted(errors, key=lambda name: -errors[name])[:_SHOWN]
    shown = [
        charts.Bar(name, 100 * errors[name], _percent(errors[name]), 0.0, 0.0) for name in worst
    ]
    more = f", the {len(worst)} worst of {len(errors)}" if len(errors) > len(worst) else ""
    caption = (
        "What rounding each Linear alone to nearest would do to the answer, to first order, before "
        f"weights are fitted and tuned{more}."
    )
    return [
        charts.figure(
            lambda width: charts.bars(
                shown,
                None,
                "Error by layer",
                axis="error, % of the answer's variance",
                width=width,
            ),
            caption,
        )
    ]


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"
