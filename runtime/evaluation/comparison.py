"""How accurate a model is, alone and beside its reference: values, as reports hold them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Self

from mimiq.runtime.evaluation.class_changes import ClassChange
from mimiq.runtime.evaluation.intervals import Interval, paired_difference, wilson


@dataclass(frozen=True)
class Accuracy:
    """How often the right class was first, and among the first five. All in percent.

    Attributes:
        count, correct, correct_top5: images, and how many were right.
    """

    count: int
    correct: int
    correct_top5: int

    @property
    def top1(self) -> float:
        return 100 * self.correct / self.count

    @property
    def top5(self) -> float:
        return 100 * self.correct_top5 / self.count

    @property
    def top1_interval(self) -> Interval:
        """95 % interval (Wilson) for the population that the images are drawn from."""
        return _percent(wilson(self.correct, self.count))

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "top1": self.top1,
            "top5": self.top5,
            "top1_interval": list(self.top1_interval),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(data["count"], data["correct"], data["correct_top5"])


@dataclass(frozen=True)
class Comparison:
    """A model beside its reference, on the same images.

    Attributes:
        accuracy, reference: of the model, and of the reference.
        agreeing: images to which both give the same top-1 class, right or wrong.
        only_model, only_reference: images that one alone classified rightly.
        max_logit_difference, mean_logit_difference: of |Δ| over all images and classes.
        logit_error: mean of Δ² as a share of the variance of the reference's logits. It tells two
            models apart long before their top-1 does: every logit counts, not the few images that
            change sides.
        probability_difference: of networks with one logit, the mean difference of their sigmoids.
        lost: the classes that lose most images, where there are more than two.
    """

    accuracy: Accuracy
    reference: Accuracy
    agreeing: int
    only_model: int
    only_reference: int
    max_logit_difference: float
    mean_logit_difference: float
    logit_error: float
    probability_difference: float | None = None
    lost: tuple[ClassChange, ...] = ()

    @property
    def count(self) -> int:
        return self.accuracy.count

    @property
    def agreement(self) -> float:
        """Share of images with the same top-1 class, in [0, 1]."""
        return self.agreeing / self.count

    @property
    def agreement_interval(self) -> Interval:
        """95 % interval (Wilson), in [0, 1]."""
        return wilson(self.agreeing, self.count)

    @property
    def drop(self) -> float:
        """Top-1 points lost against the reference; negative when the model is better."""
        return self.reference.top1 - self.accuracy.top1

    @property
    def drop_interval(self) -> Interval:
        """95 % interval of the drop, in points (paired; Agresti & Min 2005)."""
        return _percent(paired_difference(self.only_reference, self.only_model, self.count))

    def to_json(self) -> dict[str, Any]:
        return {
            "accuracy": self.accuracy.to_json(),
            "reference": self.reference.to_json(),
            "count": self.count,
            "agreeing": self.agreeing,
            "agreement": self.agreement,
            "agreement_interval": list(self.agreement_interval),
            "only_model": self.only_model,
            "only_reference": self.only_reference,
            "drop": self.drop,
            "drop_interval": list(self.drop_interval),
            "max_logit_difference": self.max_logit_difference,
            "mean_logit_difference": self.mean_logit_difference,
            "logit_error": self.logit_error,
            "probability_difference": self.probability_difference,
            "lost": [change.to_json() for change in self.lost],
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        return cls(
            accuracy=Accuracy.from_json(data["accuracy"]),
            reference=Accuracy.from_json(data["reference"]),
            agreeing=data["agreeing"],
            only_model=data["only_model"],
            only_reference=data["only_reference"],
            max_logit_difference=data["max_logit_difference"],
            mean_logit_difference=data["mean_logit_difference"],
            logit_error=data["logit_error"],
            probability_difference=data.get("probability_difference"),
            lost=tuple(ClassChange.from_json(change) for change in data.get("lost") or ()),
        )


def _percent(interval: Interval) -> Interval:
    return 100 * interval[0], 100 * interval[1]
