"""``compare``: bundles side by side, and which one to take."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimiq.cli import options
from mimiq.cli.commanding import Command
from mimiq.cli.flags import with_flags
from mimiq.cli.output import print_json, show, shown, working
from mimiq.cli.parameters import PATH, Number, Whole
from mimiq.files import write_whole
from mimiq.libraries import missing_libraries
from mimiq.outputs import require_new

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.report.comparison.candidates import Candidate
    from mimiq.runtime.report.comparison.choice import Choice

Networks = Mapping[tuple[str, str | None], tuple[Sequence["Candidate"], "Choice"]]


@click.command(
    "compare",
    cls=Command,
    short_help="Bundles side by side, and which one to take.",
    examples=(
        ("mimiq compare deit_t-*.mimiq", "tables, and a recommendation"),
        ("mimiq compare a.mimiq b.mimiq -o page.html", "as a page, with plots"),
    ),
)
@click.argument("bundles", type=PATH, nargs=-1, required=True)
@options.option(
    "Comparison",
    "--within",
    type=Number(0),
    default=1.0,
    show_default=True,
    metavar="POINTS",
    help="Of top-1 that the recommended bundle may lose.",
)
@options.option(
    "Comparison",
    "--batch",
    type=Whole(1),
    metavar="N",
    help="The batch size whose latency counts.  [default: the smallest that all have]",
)
@options.option(
    "Output",
    "-o",
    "--out",
    type=PATH,
    help="Also write a page there: NAME.html.  [default: no page]",
)
@options.option("Output", "--force", is_flag=True, help="Replace an existing page.")
@options.json_option
def compare(
    bundles: tuple[Path, ...],
    within: float,
    batch: int | None,
    out: Path | None,
    force: bool,
    json: bool,
) -> None:
    """Hold BUNDLES against each other: accuracy, size, latency, precision; and say which to take.

    The recommended one is the smallest of those that lose little and are about as fast as the
    fastest. What was recorded when they were compiled is compared: nothing is measured again.
    """
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.report.comparison.page import comparison_page
    from mimiq.runtime.report.comparison.terminal import render

    if out is not None:
        require_new(out, force, ".html")
    with working():
        networks = compared([Bundle(path) for path in bundles], within, batch)
        if out is not None:
            write_whole(out, comparison_page(networks))
    if json:
        print_json({"networks": networks_json(networks), "page": str(out) if out else None})
        return
    for (name, _), (found, choice) in networks.items():
        show(render(with_flags(name), found, choice), "")
    if out is not None:
        show(f"Page: {shown(out)}")


def compared(bundles: Sequence[Bundle], within: float, batch: int | None = None) -> Networks:
    """The bundles by network, each network's with what follows from them."""
    from mimiq.runtime.report.comparison.candidates import candidates
    from mimiq.runtime.report.comparison.choice import choose

    grouped = candidates(bundles, _layers(bundles))
    return {
        network: (found, choose(found, within=within, batch=batch))
        for network, found in grouped.items()
    }


def networks_json(networks: Networks) -> list[dict[str, object]]:
    """For machines."""
    return [
        {
            "model": name,
            "weights_sha256": weights,
            "bundles": [candidate.to_json() for candidate in found],
            **choice.to_json(),
        }
        for (name, weights), (found, choice) in networks.items()
    ]


def _layers(bundles: Sequence[Bundle]) -> dict[str, dict[str, int]]:
    """The layers of every bundle by kind; nothing on a host that cannot read graphs."""
    if {"onnx", "onnx_ir"} & set(missing_libraries()):
        return {}
    from mimiq.export import summarize

    return {str(bundle.path): summarize(bundle.model_path)["layers"] for bundle in bundles}
