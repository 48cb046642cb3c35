"""What the entries of ``report.json`` must be, so that whatever shows a report can count on it."""

from __future__ import annotations

from mimiq.runtime.files.json_shapes import (
    at_most,
    count,
    flag,
    list_of,
    number,
    pair,
    positive,
    record,
    record_of,
    text,
)

_ACCURACY = record(
    {"count": count(1), "correct": count(), "correct_top5": count()},
    None,
    at_most("count", "correct", "correct_top5"),
)

_CLASS_CHANGE = record(
    {key: count() for key in ("label", "count", "before", "now")}
    | {"instead": list_of(pair(count(), count()))}
)

_COMPARISON = record(
    {
        "accuracy": _ACCURACY,
        "reference": _ACCURACY,
        "agreeing": count(),
        "only_model": count(),
        "only_reference": count(),
        "max_logit_difference": number,
        "mean_logit_difference": number,
        "logit_error": number,
    },
    {"probability_difference": number, "lost": list_of(_CLASS_CHANGE)},
    at_most("accuracy.count", "agreeing", "only_model", "only_reference"),
)

_COST = record(
    {"count": count(1), "agreeing": count(), "logit_error": number, "believed": number},
    {"probability_difference": number},
    at_most("count", "agreeing"),
)

_SIMILARITY = record(
    {
        "count": count(1),
        "mean": number,
        "percentile_5": number,
        "least": number,
        "neighbours": count(),
        "error": number,
    },
    None,
    at_most("count", "neighbours"),
)

LATENCY = record(
    {
        "engine": text,
        "backend": text,
        "batch": count(1),
        "p50_ms": number,
        "p90_ms": number,
        "p99_ms": number,
        "throughput": number,
        "speedup": positive,
        "speedup_quartiles": pair(positive, positive),
        "runs": count(),
        "stable": flag,
    }
)
"""A row of latency, here or in what ``mimiq bench --tune`` left beside a bundle."""

_TUNING = record(
    {
        "steps": count(),
        "initial_loss": number,
        "best_loss": number,
        "best_step": count(),
        "history": list_of(pair(count(), number)),
    },
    {"agreement": number, "seconds": number},
)

_HARDWARE = record({}, {"gpus": list_of(record({})), "instruction_sets": list_of(text)})

REPORT = record(
    {},
    {
        "created": text,
        "model": record({}),
        "precision": record({}),
        "size": record({}, {"bytes": count(), "reference_bytes": count()}),
        "dataset": text,
        "accuracy": _COMPARISON,
        "heldout": record({"kinds": record_of(_COST, 1)}),
        "similarity": record({"heldout": record_of(_SIMILARITY, 1)}, {"evaluation": _SIMILARITY}),
        "simulation": _COMPARISON,
        "latency": list_of(LATENCY),
        "fallbacks": list_of(text),
        "hardware": _HARDWARE,
        "software": record({}),
        "notes": list_of(text),
        "tuning": _TUNING,
        "seconds": number,
        "memory": record_of(count()),
        "layers": record_of(number),
        "command": text,
    },
)
