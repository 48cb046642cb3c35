"""The section of latency: bars of the speed-up, and the milliseconds."""

from __future__ import annotations

from xml.etree.ElementTree import Element

from mimiq.runtime.host import host_name
from mimiq.runtime.report import charts
from mimiq.runtime.report.markup import table
from mimiq.runtime.report.report import Report


def latency_parts(report: Report) -> list[Element]:
    """The section's parts, of a report with latencies."""
    rows = report.latency
    reference = rows[0].engine
    alone = len({row.engine for row in rows}) <= 2
    shown = [
        charts.Bar(
            f"batch {row.batch}" if alone else f"{row.engine}, batch {row.batch}",
            row.speedup,
            f"{row.speedup:.2f}×",
            *(row.speedup_quartiles),
        )
        for row in rows
        if row.engine != reference
    ]
    cells = [
        (
            f"batch {row.batch}, {row.engine}",
            *(f"{value:.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
            f"{row.throughput:.0f}",
            "" if row.engine == reference else f"{row.speedup:.2f}×",
        )
        for row in rows
    ]
    host = host_name(report.hardware, rows[0].backend)
    caption = (
        f"Speed against {reference}, the engines in turns in one run, on {host}; whiskers are "
        f"quartiles over rounds. Dashed: as fast as {reference}."
    )
    figure = charts.figure(
        lambda width: charts.bars(
            shown,
            1.0,
            f"Speed against {reference} by batch size",
            axis=f"times as fast as {reference}",
            width=width,
        ),
        caption,
    )
    headings = ("", "p50 ms", "p90 ms", "p99 ms", "images/s", f"against {reference}")
    return [*([figure] if shown else []), table(headings, cells)]
