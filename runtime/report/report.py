"""What was measured, as a dictionary for machines and a table for people.

A report, ``report.json`` in the bundle, has these keys; what was not measured is null or empty::

    format      "mimiq-report/1"
    created     UTC, ISO 8601
    model       name, architecture, num_classes, parameters, untrained, … (as in the manifest)
    precision   label, … (as in the manifest)
    size        bytes, reference_bytes: of the model files and of their fp32 counterpart
    dataset     what accuracy was measured on
    accuracy    Comparison.to_json(): the exported model against the full-precision one
    heldout     HeldOut.to_json(): the cost on images without labels, held out from everything
    similarity  EmbeddingCost.to_json(): of a network without a classifier, in the place of accuracy
                and heldout
    simulation  Comparison.to_json(): the exported model against the simulated one; in reports
                written before the cost was measured
    latency     [LatencyRow.to_json(), …], the reference engine first at each batch size
    fallbacks   [text, …]: layers that run in higher precision than asked for, and why
    hardware    describe_hardware()
    software    describe_software()
    notes       [text, …]: what a reader must know before using the numbers
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from mimiq.runtime.evaluation.accuracy import Comparison
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.evaluation.similarity import EmbeddingCost
from mimiq.runtime.host import describe_hardware, describe_software
from mimiq.runtime.latency.measure import LatencyRow

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

FORMAT = "mimiq-report/1"


def build_report(
    *,
    model: Mapping[str, Any],
    precision: Mapping[str, Any],
    size_bytes: int | None = None,
    reference_bytes: int | None = None,
    dataset: str | None = None,
    accuracy: Comparison | None = None,
    held_out: HeldOut | None = None,
    similarity: EmbeddingCost | None = None,
    latency: Sequence[LatencyRow] = (),
    fallbacks: Sequence[str] = (),
    hardware: Mapping[str, Any] | None = None,
    software: Mapping[str, Any] | None = None,
    notes: Sequence[str] = (),
) -> dict[str, Any]:
    """Gather results; the keys are those of this module's text.

    Args:
        notes: the caller's own, put before those that follow from the numbers.
    """
    report: dict[str, Any] = {
        "format": FORMAT,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "model": dict(model),
        "precision": dict(precision),
        "size": {"bytes": size_bytes, "reference_bytes": reference_bytes},
        "dataset": dataset,
        "accuracy": accuracy.to_json() if accuracy else None,
        "heldout": held_out.to_json() if held_out else None,
        "similarity": similarity.to_json() if similarity else None,
        "simulation": None,
        "latency": [row.to_json() for row in latency],
        "fallbacks": list(fallbacks),
        "hardware": dict(hardware or describe_hardware()),
        "software": dict(software or describe_software()),
    }
    report["notes"] = [*notes, *_derived_notes(report)]
    return report


def render(report: Mapping[str, Any]) -> RenderableType:
    """The report as a few short tables for a terminal."""
    from rich.console import Group
    from rich.text import Text

    model, label = report["model"], report["precision"].get("label", "?")
    title = Text(f"{model.get('name', 'model')} → {label}", style="bold")
    if model.get("untrained"):
        title.append("  UNTRAINED: random weights, latency only", style="bold red")
    parts: list[RenderableType] = [title]
    figures = _figures(report)
    if figures.row_count:
        parts.append(figures)
    if report.get("latency"):
        parts += [Text(), _latency_table(report)]
    if report.get("fallbacks") or report.get("notes"):
        parts.append(Text())
    parts += [Text(f"• {fallback}", style="yellow") for fallback in report.get("fallbacks") or ()]
    parts += [Text(f"• {note}") for note in report.get("notes") or ()]
    return Group(*parts)


def _figures(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    label = report["precision"].get("label", "?")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("", "full precision", label, "difference"):
        table.add_column(heading, justify="right" if heading else "left")
    size = report.get("size") or {}
    if size.get("bytes") is not None:
        before = size.get("reference_bytes")
        table.add_row(
            "model files",
            megabytes(before) if before else "–",
            megabytes(size["bytes"]),
            f"{before / size['bytes']:.2f}× smaller" if before else "–",
        )
    if report.get("accuracy"):
        _add_accuracy(table, Comparison.from_json(report["accuracy"]))
    if report.get("heldout"):
        _add_cost(table, HeldOut.from_json(report["heldout"]))
    if report.get("similarity"):
        for row in similarity_rows(EmbeddingCost.from_json(report["similarity"])):
            table.add_row(row[0], "", *row[1:])
    if report.get("simulation"):
        simulation = Comparison.from_json(report["simulation"])
        table.add_row(
            "same top-1 as simulated", "", f"{100 * simulation.agreement:.2f} %", _of(simulation)
        )
    return table


def _add_accuracy(table: Table, found: Comparison) -> None:
    low, high = found.drop_interval
    binary = found.probability_difference is not None
    table.add_row(
        "right at the threshold 0.5" if binary else "top-1",
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
    same = "same side of 0.5 as full precision" if binary else "same top-1 as full precision"
    table.add_row(same, "", f"{100 * found.agreement:.2f} %", _of(found))
    table.add_row("logit error", "", f"{100 * found.logit_error:.2f} %", "of their variance")


def _add_cost(table: Table, found: HeldOut) -> None:
    low, high = (100 * bound for bound in found.agreement_interval)
    moved = found.probability_difference
    same = "same top-1" if moved is None else "same side of 0.5"
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
    rows = []
    for where, each in {**given, **kinds}.items():
        low, high = (100 * bound for bound in each.neighbour_interval)
        rows += [
            (
                f"cosine with full precision, {where}",
                f"{each.mean:.4f}",
                f"5th percentile {each.percentile_5:.4f}, least {each.least:.4f}",
            ),
            (
                f"same nearest neighbour, {where}",
                f"{100 * each.neighbour_agreement:.1f} %",
                f"[{low:.1f}, {high:.1f}]  {each.count} images",
            ),
        ]
    return rows


def _latency_table(report: Mapping[str, Any]) -> Table:
    from rich.table import Table

    rows = [LatencyRow.from_json(row) for row in report["latency"]]
    hardware = report.get("hardware") or {}
    table = Table(
        title=f"Latency, end to end, on {host_name(hardware, rows[0].backend)}",
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
    )
    for heading in ("batch", "engine", "p50 ms", "p90 ms", "p99 ms", "images/s"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    table.add_column(f"speed against {rows[0].engine}", justify="right")
    for row in rows:
        speed = "" if row.engine == rows[0].engine else f"{row.speedup:.2f}×"
        times = [f"{value:.2f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)]
        table.add_row(str(row.batch), row.engine, *times, f"{row.throughput:.0f}", speed)
    return table


def _derived_notes(report: Mapping[str, Any]) -> list[str]:
    notes: list[str] = []
    if report["model"].get("untrained"):
        notes.append("The weights are random: only size and latency mean anything.")
    if report["accuracy"]:
        accuracy = Comparison.from_json(report["accuracy"])
        notes.append(
            f"Accuracy on {report['dataset'] or 'the given images'}: {_of(accuracy)}, "
            "95 % interval in brackets."
        )
    evaluation = (report["similarity"] or {}).get("evaluation")
    if evaluation:
        notes.append(
            f"The images given: {evaluation['count']} of {report['dataset']}. Nearest neighbours "
            "are looked for among them, 95 % interval in brackets."
        )
    return notes + _latency_notes(report)


def _latency_notes(report: Mapping[str, Any]) -> list[str]:
    rows = [LatencyRow.from_json(row) for row in report["latency"]]
    if not rows:
        return []
    notes: list[str] = []
    reference = rows[0].engine
    for engine in dict.fromkeys(row.engine for row in rows if row.engine != reference):
        # Slower in three of four rounds: no accident of one round.
        slower = [row for row in rows if row.engine == engine and row.speedup_quartiles[1] < 1]
        if slower:
            where = ", ".join(f"{row.batch} ({row.speedup:.2f}×)" for row in slower)
            notes.append(
                f"{reference} is faster than {engine} on this host "
                f"({host_name(report['hardware'], rows[0].backend)}) at batch {where}."
            )
    restless = [row for row in rows if not row.stable]
    if restless:
        notes.append(
            f"{len(restless)} of {len(rows)} timings had not settled within their budget: the "
            "host was busy. The speed ratios are compared pair by pair and suffer less than "
            "the milliseconds."
        )
    few = min(row.runs for row in rows)
    if few < 100:
        notes.append(f"Some p99 rest on {few} runs and are near the slowest of them.")
    return notes


def host_name(hardware: Mapping[str, Any], backend: str) -> str:
    """The device that ``backend`` ran on, for people."""
    gpus = hardware.get("gpus") or []
    if gpus and "cpu" not in backend:
        return str(gpus[0].get("name"))
    sets = [name for name in hardware.get("instruction_sets") or () if "vnni" in name]
    sets += [name for name in hardware.get("instruction_sets") or () if name == "amx_int8"]
    integer = f" with {', '.join(sets)}" if sets else ""
    return f"{hardware.get('cpu') or 'an unknown CPU'}, {hardware.get('cores')} cores{integer}"


def _of(found: Comparison) -> str:
    return f"{found.count} images"


def megabytes(count: int) -> str:
    """Bytes for people: ``3.50 MB``."""
    return f"{count / 1e6:.2f} MB"
