"""How far a network may fall or grow, and which units are raised to keep it within that.

Units are raised in the order of their measured gain; what is measured here is handed in as
functions, so that the choice itself is plain arithmetic.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.config.precision import Precision
from mimiq.distill.views import Views
from mimiq.errors import BadInput, CheckFailed
from mimiq.stages.sensitivity import Ranking, Sensitivity, candidates, raise_units

_UNITS = {"b": 1, "kb": 1e3, "mb": 1e6, "gb": 1e9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
_LOOKS = 512  # at held-out images, in so many views as that takes
_ROUNDS = 3  # of raising and tuning before everything is raised
_SLACK = 0.9  # of the drop aimed for, since it is predicted from the loss before tuning


@dataclass(frozen=True)
class Size:
    """A size of the ONNX file: ``count`` bytes, or ``count`` times the full-precision file."""

    text: str
    count: float
    relative: bool

    def bytes(self, reference: int) -> int:
        """In bytes, where the full-precision file has ``reference`` of them."""
        return int(self.count * reference) if self.relative else int(self.count)


@dataclass(frozen=True)
class Budget:
    """What a compiled network must keep to.

    Attributes:
        max_drop: points of top-1 it may lose, as :func:`measure_drop` estimates them.
        size: the most that its ONNX file may take.
    """

    max_drop: float | None = None
    size: Size | None = None

    def __post_init__(self) -> None:
        if self.max_drop is not None and not 0 <= self.max_drop <= 100:
            raise BadInput(
                f"`max_drop={self.max_drop:g}` is no number of points between 0 and 100.",
                "Write for example `max_drop=1`.",
            )


@dataclass(frozen=True)
class Drop:
    """What quantisation costs on images without labels.

    Attributes:
        points: top-1 lost, in percent of the images; see :func:`measure_drop`.
        agreement: share of images on which both networks give the same answer.
        count: images, every view counted.
    """

    points: float
    agreement: float
    count: int


@dataclass(frozen=True)
class Raising:
    """The units raised, and the record of why.

    Attributes:
        precision: with the units raised.
        units: largest gain first.
        tries: ``(units raised, drop)`` of every precision that was tuned and measured.
        size: predicted bytes of the file, and the most allowed; None without a size budget.
    """

    precision: Precision
    units: tuple[Sensitivity, ...]
    tries: tuple[tuple[int, Drop], ...] = ()
    size: tuple[int, int] | None = None

    def to_json(self, budget: Budget) -> dict[str, Any]:
        """The manifest's entry."""
        return {
            "max_drop": budget.max_drop,
            "size_budget": budget.size.text if budget.size else None,
            "size": list(self.size) if self.size else None,
            "tries": [{"raised": count, **asdict(drop)} for count, drop in self.tries],
            "units": [asdict(found.unit) | {"gain": found.gain} for found in self.units],
        }


def require_fits(raised: Mapping[str, Any] | None, graph: Path) -> None:
    """Hold the written file to its budget: units were chosen by an estimate of its size.

    Args:
        raised: the manifest's entry, see :meth:`Raising.to_json`; None where nothing was raised.
        graph: the ONNX file.

    Raises:
        CheckFailed: when it is larger than the budget.
    """
    if not raised or not raised["size"]:
        return
    estimated, limit = raised["size"]
    found = graph.stat().st_size
    if found > limit:
        raise CheckFailed(
            f"The ONNX file has {found} bytes, over `size_budget={raised['size_budget']}` "
            f"({limit} bytes): {estimated} were estimated.",
            f"Give a `size_budget` smaller by {found - limit} bytes: less is raised then.",
        )


def parse_size(text: str) -> Size:
    """``4MB``, ``800 kB``, ``3.5MiB``, or ``0.6x`` of the full-precision file.

    Raises:
        BadInput: when the text has another form, or is no size.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?|\.\d+)\s*([a-z]+)", text.strip().lower())
    unit = match[2] if match else ""
    if not match or unit not in (*_UNITS, "x") or float(match[1]) == 0:
        raise BadInput(
            f"`size_budget={text}` is no size.",
            "Write for example 4MB, 800kB or 3.5MiB, or 0.6x of the full-precision file.",
        )
    return Size(text.strip(), float(match[1]) * _UNITS.get(unit, 1), unit == "x")


@torch.no_grad()
def measure_drop(
    network: nn.Module,
    original: nn.Module,
    images: torch.Tensor,
    views: Views,
    seed: int,
    batch_size: int = 32,
) -> Drop:
    """Estimate the top-1 that ``network`` loses against ``original``, without labels.

    With the original's probabilities p, its answer a and the network's answer b, an image costs
    ``p(a) - p(b)``: the loss of top-1 to be expected if labels fall as the original believes. That
    two networks disagree says less: near ties, where either answer is as good, are most of it.

    Args:
        images: (B, 3, S, S), normalised, not trained on; seen in several views, for the original
            is surer of images made for it than of photographs.
        views: how they are changed, as in distillation.
        seed: of the views.
    """
    rounds = 1 if views.fixed else math.ceil(_LOOKS / len(images))
    generator = torch.Generator().manual_seed(seed)
    lost, same = 0.0, 0
    for _ in range(rounds):
        for batch in views(images, generator).split(batch_size):
            believed = original(batch).float().softmax(-1)
            answer, found = believed.argmax(-1), network(batch).argmax(-1)
            rows = torch.arange(len(batch), device=batch.device)
            lost += float((believed[rows, answer] - believed[rows, found]).sum())
            same += int((answer == found).sum())
    count = rounds * len(images)
    return Drop(points=100 * lost / count, agreement=same / count, count=count)


def choose(
    budget: Budget,
    precision: Precision,
    ranking: Ranking,
    *,
    drop_of: Callable[[Precision], Drop],
    size_of: Callable[[Precision], int],
    reference_bytes: Callable[[], int],
) -> Raising:
    """Raise as few units as the drop allows, or as many as the size does.

    Units below 8 bits are raised to 8, by gain: INT8 is as fast. Where there is none, units of 8
    bits are raised to floating point, by gain for each multiplication that becomes slower.

    Args:
        budget: at least one of its limits is set.
        precision: as asked for.
        ranking: of its units.
        drop_of: tunes a precision and measures it.
        size_of: bytes of the ONNX file at a precision.
        reference_bytes: of the full-precision file.

    Raises:
        BadInput: when the file is too large with nothing raised.
        CheckFailed: when all that may be raised is, and the drop is still too large.
    """
    units = _in_order(ranking)
    size = None
    if budget.size is not None:
        size = budget.size.bytes(reference_bytes())
        units = _fitting(budget.size, size, precision, units, size_of)
    tries: list[tuple[int, Drop]] = []
    if budget.max_drop is not None:
        tries = _tries(budget.max_drop, precision, ranking, units, drop_of)
        count, reached = tries[-1]
        if reached.points > budget.max_drop:
            raise _unreachable(budget, precision, units, reached)
        units = units[:count]
    raised = _raised(precision, units)
    sizes = (size_of(raised), size) if size is not None else None
    return Raising(raised, tuple(units), tuple(tries), sizes)


def _in_order(ranking: Ranking) -> list[Sensitivity]:
    """Those that may be raised, the first to raise first."""
    wanted = set(candidates(found.unit for found in ranking.units))
    units = [found for found in ranking.units if found.unit in wanted]
    if all(found.unit.raised != "float" for found in units):
        return units
    # A network with all its units in floating point would not be quantised: one stays.
    return sorted(units, key=lambda found: -found.gain / found.unit.products)[:-1]


def _fitting(
    size: Size,
    limit: int,
    precision: Precision,
    units: Sequence[Sensitivity],
    size_of: Callable[[Precision], int],
) -> list[Sensitivity]:
    """The units with the largest gain a byte, as many as fit, in the order they came in."""
    smallest = size_of(precision)
    if smallest > limit:
        raise BadInput(
            f"`size_budget={size.text}` ({limit / 1e6:.2f} MB) is too small: with every layer as "
            f"small as asked for the file has {smallest / 1e6:.2f} MB.",
            f"Give {math.ceil(smallest / 1e4) / 100:.2f}MB or more, or choose fewer bits.",
        )
    by_byte = sorted(units, key=lambda found: -found.gain / max(found.unit.extra_bytes, 1))
    left = [found for found in by_byte if found.gain > 0]
    chosen: list[Sensitivity] = []
    spare = limit - smallest
    while more := _filling(spare, left):
        chosen += more
        left = [found for found in left if found not in more]
        # Raised layers also need fewer nodes, which makes room for others.
        spare = limit - size_of(_raised(precision, chosen))
    while spare < 0:
        chosen.pop()
        spare = limit - size_of(_raised(precision, chosen))
    return [found for found in units if found in chosen]


def _filling(spare: int, units: Sequence[Sensitivity]) -> list[Sensitivity]:
    """In the given order, each that still fits."""
    chosen = []
    for found in units:
        if found.unit.extra_bytes <= spare:
            chosen.append(found)
            spare -= found.unit.extra_bytes
    return chosen


def _tries(
    max_drop: float,
    precision: Precision,
    ranking: Ranking,
    units: Sequence[Sensitivity],
    drop_of: Callable[[Precision], Drop],
) -> list[tuple[int, Drop]]:
    """Tune and measure with more and more units raised, until it suffices or all are.

    Tuning is what takes the time, so the number of units is predicted: the drop is taken to be in
    proportion to the loss before tuning, and that to fall with the gains.
    """
    losses = _losses(ranking, units)
    tries: list[tuple[int, Drop]] = []
    count = 0
    while True:
        tries.append((count, drop_of(_raised(precision, units[:count]))))
        drop = tries[-1][1].points
        if drop <= max_drop or count == len(units):
            return tries
        wanted = losses[count] * _SLACK * max_drop / drop
        enough = (k for k in range(count + 1, len(units)) if losses[k] <= wanted)
        count = next(enough, len(units)) if len(tries) <= _ROUNDS else len(units)


def _losses(ranking: Ranking, units: Sequence[Sensitivity]) -> list[float]:
    """The loss with the first 0, 1, … units raised.

    Gains measured one at a time do not add up; what they share of the whole is kept, and the whole
    is what raising all of them together was measured to give.
    """
    every = sum(max(found.gain, 0.0) for found in _in_order(ranking)) or 1.0
    whole = ranking.loss - ranking.raised_loss
    gained = accumulate((max(found.gain, 0.0) for found in units), initial=0.0)
    return [ranking.loss - whole * part / every for part in gained]


def _raised(precision: Precision, units: Sequence[Sensitivity]) -> Precision:
    return raise_units(precision, [found.unit for found in units])


def _unreachable(
    budget: Budget, precision: Precision, units: Sequence[Sensitivity], reached: Drop
) -> CheckFailed:
    within = f" within `size_budget={budget.size.text}`" if budget.size else ""
    return CheckFailed(
        f"`max_drop={budget.max_drop:g}` cannot be met from {precision.label}: with all "
        f"{len(units)} units raised that may be{within}, {reached.points:.2f} points are lost "
        f"(same answer on {reached.agreement:.1%} of {reached.count} held-out views).",
        f"Allow {math.ceil(10 * reached.points) / 10:.1f} points or more, tune longer (`steps`, "
        "`images`), or start from more bits.",
    )
