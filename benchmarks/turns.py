"""Contenders that take turns: a ratio of speeds on a machine that may have other work to do."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch


def take_turns(
    contenders: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Wall seconds of each contender in each of ``rounds`` rounds, after two to warm up."""
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for round_number in range(rounds + 2):
        for name, run in contenders.items():
            started = time.perf_counter()
            run()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if round_number >= 2:
                seconds[name].append(time.perf_counter() - started)
    return seconds


def median_ratio(seconds: Mapping[str, list[float]], above: str, below: str) -> float:
    """The median over rounds of the ratio within a round, so that other work strikes both."""
    rounds = zip(seconds[above], seconds[below], strict=True)
    return statistics.median(a / b for a, b in rounds)


def verdict(met: bool) -> str:
    return "met" if met else "MISSED"
