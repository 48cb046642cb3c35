"""The few interval estimates that a report needs; closed forms, no SciPy."""

from __future__ import annotations

import math

Z95 = 1.959963984540054  # the standard normal's 97.5th percentile

Interval = tuple[float, float]


def wilson(successes: int, count: int) -> Interval:
    """95 % score interval of a proportion, in [0, 1] (Wilson 1927).

    Holds its level where the simple normal interval fails: few trials, rates near 0 or 1.
    """
    if count == 0:
        return 0.0, 1.0
    rate, z2 = successes / count, Z95**2
    centre = (rate + z2 / (2 * count)) / (1 + z2 / count)
    half = Z95 * math.sqrt(rate * (1 - rate) / count + z2 / (4 * count**2)) / (1 + z2 / count)
    # At the ends the bound is exact; rounding would leave it a hair inside.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == count else min(1.0, centre + half)
    return low, high


def paired_difference(only_first: int, only_second: int, count: int) -> Interval:
    """95 % interval of rate(first) − rate(second), measured on the same trials, in [−1, 1].

    Adjusted Wald interval of Agresti & Min (2005, "Simple improved confidence intervals for
    comparing matched proportions"): half a trial is added to each cell of the 2×2 table, so that
    no disagreement at all does not claim a width of 0.

    Args:
        only_first: trials in which only the first succeeded.
        only_second: trials in which only the second succeeded.
        count: all trials.
    """
    if count == 0:
        return -1.0, 1.0
    first, second, total = only_first + 0.5, only_second + 0.5, count + 2.0
    difference = (first - second) / total
    variance = (first + second - (first - second) ** 2 / total) / total**2
    half = Z95 * math.sqrt(variance)
    return max(-1.0, difference - half), min(1.0, difference + half)
