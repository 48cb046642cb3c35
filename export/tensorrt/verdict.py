"""Did low precision help, and if not, why: a measurement and two proofs in a few sentences."""

from __future__ import annotations

from collections.abc import Sequence

from mimiq.export.tensorrt.proof import Proof
from mimiq.runtime.latency.measure import LatencyRow

_SHOWN = 3


def verdict(
    rows: Sequence[LatencyRow],
    gpu: str,
    low: Proof | None = None,
    half: Proof | None = None,
    reference: str = "FP16",
) -> list[str]:
    """Sentences for the end of a benchmark.

    A batch size counts as helped where a quarter of the rounds at most was slower, and as hurt
    where a quarter at most was faster.

    Args:
        rows: the low-precision engine's, one a batch size, with the ratio to the reference.
        gpu: the device's name.
        low, half: proofs of the low-precision engine and of its reference, where known.
        reference: what the ratio is to.
    """
    helped = [row for row in rows if row.speedup_quartiles[0] > 1]
    hurt = [row for row in rows if row.speedup_quartiles[1] < 1]
    even = [row for row in rows if row not in helped and row not in hurt]
    lines = []
    for words, group in (("helped", helped), ("made no difference", even), ("hurt", hurt)):
        if group:
            ratios = ", ".join(f"{row.speedup:.2f} at batch {row.batch}" for row in group)
            lines.append(f"On {gpu} low precision {words} against {reference}: speed-up {ratios}.")
    if len(helped) < len(rows) and low is not None:
        lines += _reasons(low, half)
    return lines


def _reasons(low: Proof, half: Proof | None) -> list[str]:
    """What an engine's proof shows that costs time, the worst first."""
    summary, found = low.summary, []
    if low.fallbacks:
        found.append(f"Fell back: {_some([str(fallback) for fallback in low.fallbacks])}.")
    if low.unfused:
        found.append(f"Attention runs in pieces: {_some(low.unfused)}.")
    if summary.unpacks:
        found.append(f"Kernels that unpack weights at every inference: {summary.unpacks}.")
    wide = [
        p.name for p in summary.of_role("linear") if p.compute == "int8" and p.output == "float"
    ]
    if wide:
        found.append(
            f"{len(wide)} int8 products write four bytes an element, where fp16 writes two."
        )
    if half is not None and half.summary.kernels and summary.kernels > half.summary.kernels:
        found.append(
            f"It launches {summary.kernels} kernels, and the reference {half.summary.kernels}."
        )
    if low.unproven:
        found.append(f"Not shown by the engine: {_some(low.unproven)}.")
    return found or ["The engine's own text shows no reason; the products may be too small."]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
