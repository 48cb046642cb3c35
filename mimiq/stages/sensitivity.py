"""Which parts of a network pay most for their quantisation.

The gain of a unit (:mod:`mimiq.stages.units`) is the loss that its quantisation causes, less what
it still causes when it is raised.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from mimiq.config.precision import FLOAT, Precision
from mimiq.errors import BadInput
from mimiq.models import LoadedModel
from mimiq.models.answers import divergence
from mimiq.quantize.insert import RangeRecipe, quantize, spread_outliers
from mimiq.stages.units import Unit, candidates, raise_units, units_of

BATCH = 16

# Told how many units are done, and what is being done.
Tell = Callable[[int, str], None]


@dataclass(frozen=True)
class Sensitivity:
    """A unit and the loss that raising it saves; negative where that does harm."""

    unit: Unit
    gain: float

    def to_json(self) -> dict[str, Any]:
        return asdict(self.unit) | {"gain": self.gain}

    @staticmethod
    def from_json(data: dict[str, Any]) -> Sensitivity:
        unit = {key: value for key, value in data.items() if key != "gain"}
        return Sensitivity(Unit(**unit), data["gain"])


@dataclass(frozen=True)
class Ranking:
    """Every unit of a quantised network, the largest gain first.

    Attributes:
        units: with their gains.
        further: those of them that are raised to 8 bits, from there to floating point, with what
            they still cost at 8 bits.
        loss: divergence of the answers from the full-precision network's, see
            :func:`mimiq.models.answers.divergence`, as calibrated, before any tuning.
        raised_loss: the same with all :func:`~mimiq.stages.units.candidates` raised together.
        images: how many were looked at.
        seconds: wall time.
    """

    units: tuple[Sensitivity, ...]
    loss: float
    raised_loss: float
    images: int
    seconds: float
    further: tuple[Sensitivity, ...] = ()

    def to_json(self) -> dict[str, Any]:
        return {
            **vars(self),
            "units": [found.to_json() for found in self.units],
            "further": [found.to_json() for found in self.further],
        }

    @staticmethod
    def from_json(data: dict[str, Any]) -> Ranking:
        units, further = (
            tuple(Sensitivity.from_json(entry) for entry in data[key])
            for key in ("units", "further")
        )
        return Ranking(**{**data, "units": units, "further": further})


@torch.no_grad()
def rank(
    model: LoadedModel,
    precision: Precision,
    images: torch.Tensor,
    seen: torch.Tensor,
    ranges: RangeRecipe,
    tell: Tell = lambda done, text: None,
) -> Ranking:
    """Measure the gain of every unit on ``images``.

    Each unit is quantised alone in the full-precision network. Raising it alone in the quantised
    network asks the question more directly, but is answered by chance: whatever changes in one
    layer decides roundings in all later ones anew, and what that does to an image is larger than
    what the layer itself did. DeiT-T at W4A8, gains on two sets of 24 images: rank correlation 0.26
    between the sets that way, 0.93 this way. With the 24 units of the largest gain raised, the loss
    on 32 other images fell from 0.184 to 0.081 on average that way, to 0.066 this way, and to 0.094
    with units drawn at random. Errors of different layers hardly interact there: the gains, found
    apart, add up to about the loss of the whole.

    The cost is two calibrations and, for each unit, two forward passes from its block on.

    Args:
        model: left as it is.
        precision: of the network as it stands, placed in it.
        images: (B, 3, S, S), normalised, on the device to work on.
        seen: likewise; what scales are found on.
        ranges: how scales are found.

    Raises:
        BadInput: when nothing is quantised, or a block size does not divide a layer's input size.
    """
    started = time.monotonic()
    units = units_of(model, precision)
    if not units:
        raise BadInput("Nothing in this network is quantised.", "Choose a precision.")
    gains: dict[str, float] = {}
    left: dict[str, float] = {}  # what a unit raised to 8 bits still costs
    bench = _Bench(model, precision, units, images, seen, ranges, lambda text: tell(0, text))
    first = set(candidates(units))
    loss = bench.loss(dict.fromkeys(units, bench.now))
    raised_loss = bench.loss({u: bench.raised if u in first else bench.now for u in units})
    for unit, step in bench.by_step():
        tell(len(gains), unit.name)
        if unit.raised != FLOAT.label:
            left[unit.name] = bench.loss({unit: bench.raised}, step)
        gains[unit.name] = bench.loss({unit: bench.now}, step) - left.get(unit.name, 0.0)
    tell(len(units), "")
    ranked = sorted(units, key=lambda unit: -gains[unit.name])
    return Ranking(
        units=tuple(Sensitivity(unit, gains[unit.name]) for unit in ranked),
        loss=loss,
        raised_loss=raised_loss,
        images=len(images),
        seconds=time.monotonic() - started,
        further=tuple(
            Sensitivity(further, left[further.name])
            for further in units_of(model, raise_units(precision, candidates(units)))
            if further.name in left
        ),
    )


class _Bench:
    """The full-precision network, and two quantised ones to take single units from.

    Attributes:
        now, raised: every unit as it stands, and every unit raised.
    """

    def __init__(
        self,
        model: LoadedModel,
        precision: Precision,
        units: Sequence[Unit],
        images: torch.Tensor,
        seen: torch.Tensor,
        ranges: RangeRecipe,
        say: Callable[[str], None],
    ) -> None:
        self.network = copy.deepcopy(model.module).to(images.device)
        self.batches = images.split(BATCH)
        self.answers = [self.network(batch) for batch in self.batches]
        self.output = model.output
        # Once: parts of two networks fit together only in the same basis.
        spread_outliers(model, self.network, precision, seen, ranges, say)
        shared = replace(model, module=self.network)
        ranges = replace(ranges, rotate=False, migrate=False)
        self.now = quantize(shared, precision, seen, ranges, say).module
        self.raised = quantize(shared, raise_units(precision, units), seen, ranges, say).module
        self.units = units
        self.family = model.family
        self.tokens: Sequence[torch.Tensor] = ()  # of each batch, the input of the step at hand

    def by_step(self) -> Iterator[tuple[Unit, int]]:
        """Every unit, with the step that :meth:`loss` may start from."""
        names = {part: name for name, part in self.network.named_modules()}
        self.tokens = self.batches
        rest = list(self.units)
        for index, step in enumerate(self.family.steps(self.network)):
            name = f"{names[step.part]}." if step.part is not None else None
            inside = [unit for unit in rest if name is not None and unit.name.startswith(name)]
            rest = [unit for unit in rest if unit not in inside]
            for unit in inside:
                yield unit, index
            self.tokens = [step.run(tokens) for tokens in self.tokens]
        for unit in rest:
            yield unit, 0

    def loss(self, sources: Mapping[Unit, nn.Module], start: int = 0) -> float:
        """Mean divergence from the original's answers.

        Args:
            sources: the network that each of these units is taken from.
            start: index of a step, whose input is at hand; 0 for the whole network.
        """
        total = 0.0
        entering = self.tokens if start else self.batches
        with self._placed(sources):
            steps = self.family.steps(self.network)[start:]
            for tokens, answers in zip(entering, self.answers, strict=True):
                for step in steps:
                    tokens = step.run(tokens)
                total += float(divergence(tokens, answers, self.output).sum())
        return total / sum(len(batch) for batch in self.batches)

    @contextmanager
    def _placed(self, sources: Mapping[Unit, nn.Module]) -> Iterator[None]:
        parts = {part: source for unit, source in sources.items() for part in _parts(unit)}
        kept = {part: self.network.get_submodule(part) for part in parts}
        for part, source in parts.items():
            self.network.set_submodule(part, source.get_submodule(part))
        try:
            yield
        finally:
            for part, module in kept.items():
                self.network.set_submodule(part, module)


def _parts(unit: Unit) -> list[str]:
    if unit.kind == "layer":
        return [unit.name]
    return [f"{unit.name}.{point}_quantizer" for point in ("q", "k", "v", "probs")]
