"""The page's section on which backend was the fastest on which CPU."""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree.ElementTree import Element

from mimiq.runtime.latency.tuned import Measured
from mimiq.runtime.report.dates import in_words
from mimiq.runtime.report.markup import element, prose, table

_HEADINGS = ("", "p50 ms", "p99 ms", "images/s", "speed")


def fastest_parts(measured: Sequence[Measured]) -> list[Element]:
    """For each host and number of threads what was measured there, and what follows."""
    parts = []
    for found in measured:
        reference = found.rows[0].engine
        versions = ", ".join(f"{name} {version}" for name, version in found.software.items())
        text = (
            f"{found.host.cpu or 'An unknown CPU'} ({', '.join(found.host.instruction_sets)}), "
            f"{found.threads} thread{'s' if found.threads > 1 else ''}: {found.best} is the "
            f"fastest. Speed is against {reference}, the engines in turns in one run."
        )
        rows = [
            (
                f"batch {row.batch}, {row.engine}",
                f"{row.p50_ms:.2f}",
                f"{row.p99_ms:.2f}",
                f"{row.throughput:.0f}",
                f"{row.speedup:.2f}×",
            )
            for row in found.rows
        ]
        parts += [element("p", text), table(_HEADINGS, rows)]
        parts.append(element("ul", *(element("li", prose(note)) for note in found.notes)))
        when = f"Measured {in_words(found.created)}; {versions}."
        parts.append(element("p", when, class_="quiet"))
    return parts
