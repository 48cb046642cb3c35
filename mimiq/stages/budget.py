"""Which units are raised to keep a network within its budget.

Units are raised in the order of their measured gain; what is measured here is handed in as
functions, so that the choice itself is plain arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

from mimiq.config.budget import Budget, Size
from mimiq.config.precision import FLOAT, Precision
from mimiq.errors import BadInput, CheckFailed
from mimiq.runtime.session import Output
from mimiq.stages.sensitivity import Ranking, Sensitivity
from mimiq.stages.units import candidates, raise_units

_ROUNDS = 3  # of raising and tuning before everything is raised
_SLACK = 0.9  # of the drop aimed for, since it is predicted from the loss before tuning


@dataclass(frozen=True)
class Drop:
    """What quantisation costs on images without labels that nothing was fitted to.

    Attributes:
        points: top-1 that is probably lost, in percent of the images; of embeddings, what the mean
            cosine lacks of 1, in percent.
        agreement: share of images on which both networks give the same answer; of embeddings, the
            mean cosine.
        count: images.
        output: what the network answers with.
    """

    points: float
    agreement: float
    count: int
    output: Output = "logits"

    @property
    def loss(self) -> str:
        """The loss alone, for people: ``0.73 points lost``."""
        if self.output == "embedding":
            return f"mean cosine {self.agreement:.4f}"
        return f"{self.points:.2f} points lost"

    @property
    def outcome(self) -> str:
        """The loss as the end of a sentence."""
        if self.output == "embedding":
            return f"the mean cosine is {self.agreement:.4f} on {self.count} images held out"
        return (
            f"{self.points:.2f} points are lost (same answer on {self.agreement:.1%} of "
            f"{self.count} images held out)"
        )


@dataclass(frozen=True)
class Raising:
    """The units raised, and the record of why.

    Attributes:
        precision: with the units raised.
        units: in the order in which they were raised; one that was raised to 8 bits and from there
            to floating point is there twice.
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
            "units": [found.to_json() for found in self.units],
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

    Units below 8 bits are raised to 8 first, by gain: INT8 is as fast. Where there is none, or all
    of them do not keep the drop, units of 8 bits are raised to floating point, by gain for each
    multiplication that becomes slower.

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
    steps = _Steps.of(ranking)
    units = steps.first
    size = None
    if budget.size is not None:
        size = budget.size.bytes(reference_bytes())
        units = _fitting(budget.size, size, precision, units, size_of)
    tries: list[tuple[int, Drop]] = []
    if budget.max_drop is not None:
        if units == steps.first:
            spare = math.inf if size is None else size - size_of(_raised(precision, units))
            units = [*units, *_filling(spare, steps.second)]
        tries = _tries(
            budget.max_drop, precision, steps.losses(units), units, len(steps.first), drop_of
        )
        count, reached = tries[-1]
        if reached.points > budget.max_drop:
            raise _unreachable(budget, precision, units, reached)
        units = units[:count]
    raised = _raised(precision, units)
    sizes = (size_of(raised), size) if size is not None else None
    return Raising(raised, tuple(units), tuple(tries), sizes)


@dataclass(frozen=True)
class _Steps:
    """What may be raised, in order.

    Attributes:
        first: units to 8 bits by gain; where there are none, units to floating point.
        second: to floating point, once all of ``first`` are raised; empty where that is what
            ``first`` does.
        losses_after: before anything is raised, with all of ``first``, with all of ``second``.
    """

    first: list[Sensitivity]
    second: list[Sensitivity]
    losses_after: tuple[float, float, float]

    @staticmethod
    def of(ranking: Ranking) -> _Steps:
        wanted = set(candidates(found.unit for found in ranking.units))
        first = [found for found in ranking.units if found.unit in wanted]
        others = [found for found in ranking.units if found.unit not in wanted]
        # A network with all its units in floating point would not be quantised: one stays.
        if all(found.unit.raised == FLOAT.label for found in first):
            first, second = _by_product(first)[:-1], []
        else:
            second = _by_product([*others, *ranking.further])[:-1]
        return _Steps(first, second, (ranking.loss, ranking.raised_loss, 0.0))

    def losses(self, units: Sequence[Sensitivity]) -> list[float]:
        """The loss with the first 0, 1, … of these raised.

        Gains measured one at a time do not add up; what they share of the whole is kept, and the
        whole is what raising all of them together was measured to give.
        """
        start, middle, end = self.losses_after
        ahead = [found for found in units if found not in self.second]
        behind = [found for found in units if found in self.second]
        return [
            *_falling(start, middle, ahead, self.first),
            *_falling(middle, end, behind, self.second)[1:],
        ]


def _by_product(units: Sequence[Sensitivity]) -> list[Sensitivity]:
    return sorted(units, key=lambda found: -found.gain / found.unit.products)


def _falling(
    start: float, end: float, units: Sequence[Sensitivity], every: Sequence[Sensitivity]
) -> list[float]:
    """From ``start`` on, each unit taking its share of what ``every`` one takes to ``end``."""
    whole = sum(max(found.gain, 0.0) for found in every) or 1.0
    gained = accumulate((max(found.gain, 0.0) for found in units), initial=0.0)
    return [start - (start - end) * part / whole for part in gained]


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


def _filling(spare: float, units: Sequence[Sensitivity]) -> list[Sensitivity]:
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
    losses: Sequence[float],
    units: Sequence[Sensitivity],
    first: int,
    drop_of: Callable[[Precision], Drop],
) -> list[tuple[int, Drop]]:
    """Tune and measure with more and more units raised, until it suffices or all are.

    Tuning is what takes the time, so the number of units is predicted: the drop is taken to be in
    proportion to the loss before tuning, and that to fall with the gains. All of the first
    ``first`` units, which cost no speed, are tried before any that does.

    Args:
        losses: with 0, 1, … of the units raised, before tuning.
    """
    tries: list[tuple[int, Drop]] = []
    count = 0
    for end in sorted({min(first, len(units)), len(units)}):
        for round_ in range(_ROUNDS + 1):
            if not tries or count > tries[-1][0]:
                tries.append((count, drop_of(_raised(precision, units[:count]))))
            drop = tries[-1][1].points
            if drop <= max_drop:
                return tries
            if count == end:
                break
            wanted = losses[count] * _SLACK * max_drop / drop
            enough = (k for k in range(count + 1, end) if losses[k] <= wanted)
            count = next(enough, end) if round_ < _ROUNDS - 1 else end
    return tries


def _raised(precision: Precision, units: Sequence[Sensitivity]) -> Precision:
    return raise_units(precision, [found.unit for found in units])


def _counted(units: Sequence[Sensitivity]) -> str:
    count = len({found.unit.name for found in units})
    return f"{count} {'unit' if count == 1 else 'units'}"


def _unreachable(
    budget: Budget, precision: Precision, units: Sequence[Sensitivity], reached: Drop
) -> CheckFailed:
    within = f" within `size_budget={budget.size.text}`" if budget.size else ""
    return CheckFailed(
        f"`max_drop={budget.max_drop:g}` cannot be met from {precision.label}: with all "
        f"{_counted(units)} raised that may be{within}, {reached.outcome}.",
        f"Allow {math.ceil(10 * reached.points) / 10:.1f} points or more, tune longer (`steps`, "
        "`images`), or start from more bits.",
    )
