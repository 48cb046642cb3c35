"""What quantisation costs on images without labels that nothing was fitted to.

Full precision stands in for labels: how often the quantised network gives the same answer, how far
its logits are off, and how much top-1 that suggests is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from mimiq.runtime.evaluation.binary import as_classes, probability_difference
from mimiq.runtime.evaluation.intervals import Interval, wilson
from mimiq.runtime.preprocessing import ByteArray, FloatArray, Preprocessing

Network = Callable[[FloatArray], FloatArray]  # normalised images to logits

BATCH = 16

# Points of top-1 that labels showed to be lost for each percent of logit error: 0.10 to 0.26 on two
# networks at four precisions above 4 bits of activations; docs/accuracy.md has the figures.
_POINTS_PER_PERCENT = 0.2

_MORE_THAN_NUDGED, _MORE_THAN_ERROR = 16.0, 2.0
_EXACT = 1e-6  # of the answers' variance: sums of floating-point numbers in another order


@dataclass(frozen=True)
class Cost:
    """Of one kind of images.

    Attributes:
        count: images.
        agreeing: of them, those on which both networks give the same answer.
        logit_error: mean squared difference of the logits over their variance.
        believed: mean of ``p(a) − p(b)``, for full precision's probabilities p, its answer a and
            the quantised network's b: the top-1 lost if labels fall as full precision believes.
        probability_difference: of a network with one logit, the mean difference of its sigmoid.
    """

    count: int
    agreeing: int
    logit_error: float
    believed: float
    probability_difference: float | None = None


@dataclass(frozen=True)
class HeldOut:
    """The cost on every kind of images at hand.

    Attributes:
        kinds: ``synthetic``, ``scenes`` or ``images``, and the cost on each.
    """

    kinds: Mapping[str, Cost]

    @property
    def count(self) -> int:
        return sum(cost.count for cost in self.kinds.values())

    @property
    def agreeing(self) -> int:
        return sum(cost.agreeing for cost in self.kinds.values())

    @property
    def agreement(self) -> float:
        """Share of images with the same answer, in [0, 1]."""
        return self.agreeing / self.count

    @property
    def agreement_interval(self) -> Interval:
        """95 % interval (Wilson), in [0, 1]."""
        return wilson(self.agreeing, self.count)

    @property
    def logit_error(self) -> float:
        """The mean over all images."""
        return _mean(self.kinds, lambda cost: cost.logit_error)

    @property
    def probability_difference(self) -> float | None:
        """The mean over the kinds; None where there are several logits."""
        found = [cost.probability_difference for cost in self.kinds.values()]
        known = [difference for difference in found if difference is not None]
        return float(np.mean(known)) if known else None

    @property
    def points(self) -> float:
        """Top-1 that is probably lost, in points; see :func:`estimated_points`."""
        return estimated_points(self.kinds)

    def to_json(self) -> dict[str, Any]:
        """The report's entry; what follows from the kinds is there for readers."""
        return {
            "kinds": {kind: asdict(cost) for kind, cost in self.kinds.items()},
            "count": self.count,
            "agreement": self.agreement,
            "agreement_interval": list(self.agreement_interval),
            "logit_error": self.logit_error,
            "points": self.points,
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> HeldOut:
        return HeldOut({kind: Cost(**cost) for kind, cost in data["kinds"].items()})


def estimated_points(kinds: Mapping[str, Cost]) -> float:
    """Points of top-1 that labels would probably show to be lost.

    The mean of two estimates. What full precision believes its changed answers to cost knows this
    network, but hangs on a few answers, and a network is less sure of scenes and of some synthetic
    images than it is of photographs. What a logit error of this size cost other networks is steady.
    """
    believed = _mean(kinds, lambda cost: cost.believed)
    error = _mean(kinds, lambda cost: cost.logit_error)
    return 100 * (believed + min(_POINTS_PER_PERCENT * error, 1.0)) / 2


def _mean(kinds: Mapping[str, Cost], of: Callable[[Cost], float]) -> float:
    """Over all images, whatever their kind."""
    costs = kinds.values()
    return sum(cost.count * of(cost) for cost in costs) / sum(cost.count for cost in costs)


def answers_by_kind(
    network: Network, images: Mapping[str, ByteArray], preprocessing: Preprocessing
) -> dict[str, FloatArray]:
    """:func:`logits_of` the uint8 images (B, H, W, 3) of each kind."""
    return {kind: logits_of(network, pixels, preprocessing) for kind, pixels in images.items()}


def logits_of(
    network: Network, images: ByteArray, preprocessing: Preprocessing, batch: int = BATCH
) -> FloatArray:
    """fp32 (B, classes) of uint8 images (B, H, W, 3)."""
    parts = [
        network(preprocessing.normalize(images[start : start + batch]))
        for start in range(0, len(images), batch)
    ]
    return np.concatenate(parts).astype(np.float32)


def cost(found: FloatArray, wanted: FloatArray) -> Cost:
    """The cost of logits ``found`` where full precision has ``wanted``, both (B, classes)."""
    ours, theirs = as_classes(found), as_classes(wanted)
    shifted = np.exp(theirs - theirs.max(1, keepdims=True), dtype=np.float64)
    believed = shifted / shifted.sum(1, keepdims=True)
    answers, given = theirs.argmax(1), ours.argmax(1)
    rows = np.arange(len(wanted))
    return Cost(
        count=len(wanted),
        agreeing=int((answers == given).sum()),
        logit_error=relative_error(found, wanted),
        believed=float((believed[rows, answers] - believed[rows, given]).mean()),
        probability_difference=probability_difference(found, wanted),
    )


def relative_error(found: FloatArray, wanted: FloatArray) -> float:
    """Mean squared difference over the variance of ``wanted``."""
    variance = float(np.var(wanted, dtype=np.float64))
    difference = np.subtract(found, wanted, dtype=np.float64)
    return float(np.square(difference).mean() / variance) if variance else 0.0


def explained_by_rounding(error: float, own: float) -> float:
    """How far apart two roundings of one network may be, as :func:`relative_error` counts.

    Args:
        error: of one of them towards full precision; two, independent at worst, differ by twice
            that.
        own: of the network towards itself when its input changes in the sixth digit; as large a
            change in every sum of every layer is taken for sixteen times that.
    """
    return max(_EXACT, _MORE_THAN_ERROR * error, _MORE_THAN_NUDGED * own)
