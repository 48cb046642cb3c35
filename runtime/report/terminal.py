"""A report as a few short tables for a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mimiq.runtime.evaluation.binary import words
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.evaluation.similarity import EmbeddingCost, Similarity
from mimiq.runtime.host import host_name
from mimiq.runtime.report.report import Report

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table


def render(report: Report) -> RenderableType:
    """The report as a few short tables for a terminal."""
    from rich.console import Group
    from rich.text import Text

    title = Text(f"{report.model_name} → {report.label}", style="bold")
    if report.untrained:
        title.append("  UNTRAINED: random weights, latency only", style="bold red")
    parts: list[RenderableType] = [title]
    figures = _figures(report)
    if figures.row_count:
        parts.append(figures)
    if report.latency:
        parts += [Text(), _latency_table(report)]
    if report.fallbacks or report.notes:
        parts.append(Text())
    parts += [Text(f"• {fallback}", style="yellow") for fallback in report.fallbacks]
    parts += [Text(f"• {note}") for note in report.notes]
    return Group(*parts)


def _figures(report: Report) -> Table:
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    # Where it is narrow, names and remarks give way, and no figure is cut.
    table.add_column("", overflow="fold")
    for heading in ("full precision", report.label):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("difference", justify="right", overflow="fold")
    size = report.size
    if size.bytes is not None:
        table.add_row(
            "model files",
            megabytes(size.reference_bytes) if size.reference_bytes else "–",
            megabytes(size.bytes),
            f"{size.ratio:.2f}× smaller" if size.ratio else "–",
        )
    if report.accuracy:
        _add_accuracy(table, report.accuracy)
    if report.held_out:
        _add_cost(table, report.held_out)
    if report.similarity:
        for row in similarity_rows(report.similarity):
            table.add_row(row[0], "", *row[1:])
    if report.simulation:
        same = f"{100 * report.simulation.agreement:.2f} %"
        binary = report.simulation.probability_difference is not None
        table.add_row(f"{words(binary).same} as simulated", "", same, _of(report.simulation))
    return table


def _add_accuracy(table: Table, found: Comparison) -> None:
    low, high = found.drop_interval
    binary = found.probability_difference is not None
    table.add_row(
        words(binary).right,
        f"{found.reference.top1:.2f} %",
        f"{found.accuracy.top1:.2f} %",
        f"{0 - found.drop:+.2f} points  [{0 - high:+.2f}, {0 - low:+.2f}]",  # 0 - 0.0 is not -0.0
    )
    if binary:
        moved = f"{found.probability_difference:.4f}"
        table.add_row("mean difference of the probability", "", moved, _of(found))
    else:
        table.add_row(
            "top-5",
            f"{found.reference.top5:.2f} %",
            f"{found.accuracy.top5:.2f} %",
            f"{found.accuracy.top5 - found.reference.top5:+.2f} points",
        )
    table.add_row(
        f"{words(binary).same} as full precision", "", f"{100 * found.agreement:.2f} %", _of(found)
    )
    table.add_row("logit error", "", f"{100 * found.logit_error:.2f} %", "of their variance")


def _add_cost(table: Table, found: HeldOut) -> None:
    low, high = (100 * bound for bound in found.agreement_interval)
    moved = found.probability_difference
    same = words(moved is not None).same
    table.add_row(
        f"{same} as full precision, images held out",
        "",
        f"{100 * found.agreement:.1f} %",
        f"[{low:.1f}, {high:.1f}]  {found.count} images",
    )
    table.add_row("logit error there", "", f"{100 * found.logit_error:.2f} %", "of their variance")
    if moved is not None:
        table.add_row("mean difference of the probability there", "", f"{moved:.4f}", "")
    lost = "top-1 probably lost" if moved is None else "right answers probably lost"
    table.add_row(lost, "", f"{found.points:.1f} points", "estimated there")


def similarity_rows(found: EmbeddingCost) -> list[tuple[str, str, str]]:
    """(name, value, more) of what quantisation does to embeddings, for people."""
    kinds = {f"held out: {kind}": each for kind, each in found.held_out.items()}
    given = {"on the images given": found.evaluation} if found.evaluation else {}
    return [
        (f"{name}, {where}", value, more)
        for where, each in {**given, **kinds}.items()
        for name, value, more in nearness_rows(each, "cosine with full precision")
    ]


def nearness_rows(found: Similarity, cosine: str = "cosine") -> list[tuple[str, str, str]]:
    """(name, value, more) of embeddings beside others of the same images, for people.

    Args:
        cosine: what to call the first row.
    """
    low, high = (100 * bound for bound in found.neighbour_interval)
    return [
        (
            cosine,
            f"{found.mean:.4f}",
            f"5th percentile {found.percentile_5:.4f}, least {found.least:.4f}",
        ),
        (
            "same nearest neighbour",
            f"{100 * found.neighbour_agreement:.1f} %",
            f"[{low:.1f}, {high:.1f}]  {found.count} images",
        ),
    ]


def _latency_table(report: Report) -> Table:
    from rich.table import Table

    rows = report.latency
    table = Table(
        title=f"Latency, end to end, on {host_name(report.hardware, rows[0].backend)}",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("engine", overflow="fold")
    for heading in ("p50 ms", "p90 ms", "p99 ms", "images/s"):
        table.add_column(heading, justify="right", no_wrap=True)
    alone = len({row.engine for row in rows}) == 1
    if not alone:
        table.add_column(f"speed against {rows[0].engine}", justify="right", overflow="fold")
    for row in rows:
        speed = "" if row.engine == rows[0].engine else f"{row.speedup:.2f}×"
        times = [f"{value:.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)]
        cells = (str(row.batch), row.engine, *times, f"{row.throughput:.0f}")
        table.add_row(*cells, *(() if alone else (speed,)))
    return table


def _of(found: Comparison) -> str:
    return f"{found.count} images"


def megabytes(count: int) -> str:
    """Bytes for people: ``3.50 MB``."""
    return f"{count / 1e6:.2f} MB"
