"""Results of ``accuracy.py`` as Markdown: networks side by side, and every row."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import mean
from typing import Any

import numpy as np
import numpy.typing as npt
from accuracy_results import in_order, split_key

from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.held_out import HeldOut
from mimiq.runtime.evaluation.intervals import Z95, Interval

# Those of describe_hardware's instruction sets that change speed or sums here.
_SHOWN_SETS = ("avx2", "avx_vnni", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_NONE = "–"


def table(result: Mapping[str, Any]) -> str:
    """Networks side by side where there are several, and every row."""
    rows = in_order(result)
    groups: dict[tuple[str, str], dict[str, Group]] = {}
    for key, row in rows.items():
        network, precision, variant, _ = split_key(key)
        networks = groups.setdefault((precision, variant), {})
        networks.setdefault(network, Group([])).rows.append(row)
    lines = [_head(result, rows), "", *_side_by_side(groups, list(result["networks"]))]
    return "\n".join([*lines, "", *_each(rows)]) + "\n"


def paired_mean(changes: npt.NDArray[np.float64]) -> Interval:
    """95 % interval of the mean of paired differences, one an image.

    With one seed this is :func:`mimiq.runtime.evaluation.intervals.paired_difference` (half an
    image is added on either side); with several, each image counts with the mean over them.

    Args:
        changes: (images,).
    """
    total, added = float(changes.sum()), len(changes) + 2.0
    squares = float(np.square(changes).sum()) + 1.0
    half = Z95 * math.sqrt(squares - total**2 / added) / added
    return total / added - half, total / added + half


@dataclass(frozen=True)
class Group:
    """The rows of one network at one precision, over seeds."""

    rows: list[Mapping[str, Any]]

    @cached_property
    def comparisons(self) -> list[Comparison]:
        return [Comparison.from_json(row["accuracy"]) for row in self.rows]

    @property
    def drops(self) -> list[float]:
        """Points lost, one a seed."""
        return [found.drop for found in self.comparisons]

    @property
    def drop(self) -> float:
        return mean(self.drops)

    @property
    def agreement(self) -> float:
        return mean(found.agreement for found in self.comparisons)

    @property
    def logit_error(self) -> float:
        return mean(found.logit_error for found in self.comparisons)

    @property
    def estimates(self) -> list[tuple[float, float]]:
        """(estimated, lost) in points, where a row has an estimate."""
        pairs = zip(map(estimated_loss, self.rows), self.drops, strict=True)
        return [(estimate, drop) for estimate, drop in pairs if estimate is not None]

    @cached_property
    def changes(self) -> npt.NDArray[np.float64]:
        """Of each image: 1 where it was lost, −1 where gained, the mean over seeds."""
        found = np.zeros((len(self.rows), self.comparisons[0].count))
        for line, row in zip(found, self.rows, strict=True):
            line[_indices(row["changed"]["lost"])] = 1
            line[_indices(row["changed"]["gained"])] = -1
        changes: npt.NDArray[np.float64] = found.mean(axis=0)
        return changes


def estimated_loss(row: Mapping[str, Any]) -> float | None:
    """What the compilation itself, on images without labels, took the loss for, in points."""
    found = row.get("heldout")
    return HeldOut.from_json(found).points if found else None


def _head(result: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]) -> str:
    evaluation = result["evaluation"]
    hosts = ", ".join(sorted({_host_of(row) for row in rows.values()}))
    return (
        f"Recipe `{result['recipe']}`{result['scale']}; {evaluation['count']} labelled images "
        f"({' and '.join(evaluation['sources'])}); on {hosts}. Points of top-1 lost by the "
        "exported graph under ONNX Runtime against full precision on the same images, with paired "
        "95 % intervals. Logit error is the mean squared difference from full precision over the "
        "logits' variance. The estimate is what the compilation itself says of the loss, from "
        "synthetic images and scenes held out, without labels."
    )


def _side_by_side(
    groups: Mapping[tuple[str, str], Mapping[str, Group]], names: Sequence[str]
) -> list[str]:
    """One line a precision, variant and network; ratios and differences are to the first one."""
    first = names[0]
    lines = _headings(
        "precision",
        "variant",
        "network",
        "seeds",
        "full precision",
        "lost, mean (extremes) [95 %]",
        "same answer",
        "logit error",
        f"error / {first}",
        f"lost − {first} [95 %]",
        "estimated loss (furthest off)",
    )
    for (precision, variant), networks in groups.items():
        for name, group in networks.items():
            low, high = paired_mean(group.changes)
            beside = networks.get(first) if name != first else None
            lines.append(
                f"| {precision} | {variant} | {name} | {len(group.rows)} "
                f"| {group.comparisons[0].reference.top1:.2f} "
                f"| {group.drop:.2f} ({min(group.drops):.2f} … {max(group.drops):.2f}) "
                f"[{100 * low:.2f}, {100 * high:.2f}] "
                f"| {100 * group.agreement:.1f} % | {100 * group.logit_error:.2f} % "
                f"| {_beside(group, beside)} | {_estimate(group)} |"
            )
    return lines


def _beside(group: Group, first: Group | None) -> str:
    """Two cells: the ratio of errors, and the difference of points with its interval."""
    if first is None:
        return f"{_NONE} | {_NONE}"
    low, high = paired_mean(group.changes - first.changes)
    ratio = group.logit_error / first.logit_error if first.logit_error else math.inf
    difference = group.drop - first.drop
    return f"{ratio:.2f} | {difference:+.2f} [{100 * low:+.2f}, {100 * high:+.2f}]"


def _estimate(group: Group) -> str:
    if not group.estimates:
        return _NONE
    furthest = max(abs(estimate - drop) for estimate, drop in group.estimates)
    return f"{mean(estimate for estimate, _ in group.estimates):.2f} ({furthest:.2f})"


def _each(rows: Mapping[str, Mapping[str, Any]]) -> list[str]:
    lines = _headings(
        "precision",
        "variant",
        "network",
        "seed",
        "images",
        "top-1",
        "lost [95 %]",
        "same answer",
        "logit error",
        "estimated loss",
        "held-out same answer",
        "held-out logit error",
        "distillation's loss, before → after",
        "on",
    )
    for key, row in rows.items():
        network, precision, variant, seed = split_key(key)
        found = Comparison.from_json(row["accuracy"])
        low, high = found.drop_interval
        lines.append(
            f"| {precision} | {variant} | {network} | {seed} | {row['calibration']['count']} "
            f"| {found.accuracy.top1:.2f} | {found.drop:.2f} [{low:.2f}, {high:.2f}] "
            f"| {100 * found.agreement:.1f} % | {100 * found.logit_error:.2f} % "
            f"| {_without_labels(row)} "
            f"| {_distilled(row['distillation'])} | {_host_of(row)} |"
        )
    return lines


def _headings(*titles: str) -> list[str]:
    return [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]


def _without_labels(row: Mapping[str, Any]) -> str:
    """Three cells: the loss, the same answers and the logit error on images held out."""
    estimate = estimated_loss(row)
    if estimate is None:
        return " | ".join([_NONE] * 3)
    held_out = row["heldout"]
    agreement, error = 100 * held_out["agreement"], 100 * held_out["logit_error"]
    return f"{estimate:.2f} | {agreement:.1f} % | {error:.2f} %"


def _distilled(tuned: Mapping[str, Any]) -> str:
    if not tuned["steps"]:
        return _NONE
    return f"{tuned['initial_loss']:.3f} → {tuned['best_loss']:.3f}"


def _host_of(row: Mapping[str, Any]) -> str:
    sets = [name for name in row["host"]["instruction_sets"] if name in _SHOWN_SETS]
    return f"{row['host']['device']} ({' '.join(sets) or 'no AVX2'}), torch {row['host']['torch']}"


def _indices(text: str) -> list[int]:
    return [int(index) for index in text.split()]
