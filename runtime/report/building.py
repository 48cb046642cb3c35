"""From results to a :class:`Report`, with the notes that follow from the numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime

from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.evaluation.similarity import EmbeddingCost
from mimiq.runtime.host import describe_hardware, describe_software, host_name
from mimiq.runtime.latency.measure import LatencyRow
from mimiq.runtime.report.report import Object, Report, Size


def build_report(
    *,
    model: Object,
    precision: Object,
    size: Size | None = None,
    dataset: str | None = None,
    accuracy: Comparison | None = None,
    held_out: HeldOut | None = None,
    similarity: EmbeddingCost | None = None,
    latency: Sequence[LatencyRow] = (),
    fallbacks: Sequence[str] = (),
    hardware: Object | None = None,
    software: Object | None = None,
    notes: Sequence[str] = (),
) -> Report:
    """Gather results, made now on this host, with what follows from the numbers among the notes.

    Args:
        notes: the caller's own, put before those that follow from the numbers.
    """
    hardware = dict(hardware or describe_hardware())
    derived: list[str] = []
    if model.get("untrained"):
        derived.append("The weights are random: only size and latency mean anything.")
    if accuracy:
        derived.append(
            f"Accuracy on {dataset or 'the given images'}: {accuracy.count} images, "
            "95 % interval in brackets."
        )
    if similarity and similarity.evaluation:
        derived.append(
            f"The images given: {similarity.evaluation.count} of {dataset}. Nearest neighbours "
            "are looked for among them, 95 % interval in brackets."
        )
    return Report(
        model=dict(model),
        precision=dict(precision),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        size=size or Size(),
        dataset=dataset,
        accuracy=accuracy,
        held_out=held_out,
        similarity=similarity,
        latency=tuple(latency),
        fallbacks=tuple(fallbacks),
        hardware=hardware,
        software=dict(software or describe_software()),
        notes=(*notes, *derived, *_latency_notes(latency, hardware)),
    )


def with_latency(report: Report, rows: Sequence[LatencyRow]) -> Report:
    """The report with latency measured since, and what follows from it, added."""
    notes = (*report.notes, *_latency_notes(rows, report.hardware))
    return replace(report, latency=tuple(rows), notes=notes)


def _latency_notes(rows: Sequence[LatencyRow], hardware: Object) -> list[str]:
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
                f"({host_name(hardware, rows[0].backend)}) at batch {where}."
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
