"""Networks with one logit, whose sigmoid is the probability of the second of two classes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mimiq.runtime.preprocessing import FloatArray


@dataclass(frozen=True)
class Words:
    """What a measurement is called, for people.

    Attributes:
        right: how often the network is right.
        same: how often two networks give the same answer.
        points: the unit of what is gained or lost.
    """

    right: str
    same: str
    points: str


_CLASSES = Words("top-1", "same top-1", "points of top-1")
_ONE = Words("right at the threshold 0.5", "same side of 0.5", "points of right answers")


def words(binary: bool) -> Words:
    """The words for a network of several classes, or of one logit."""
    return _ONE if binary else _CLASSES


def as_classes(logits: FloatArray) -> FloatArray:
    """Logits of every class, (B, classes); of one logit z (B, 1) those of both, (B, 2): 0 and z.

    Their softmax is 1 − σ(z) and σ(z), and their larger one tells on which side of 0.5 σ(z) lies.
    """
    if logits.shape[1] != 1:
        return logits
    return np.concatenate([np.zeros_like(logits), logits], axis=1)


def probability_difference(found: FloatArray, wanted: FloatArray) -> float | None:
    """Mean |σ(found) − σ(wanted)| of one logit, (B, 1); None where there are several."""
    if wanted.shape[1] != 1:
        return None
    return float(np.abs(_sigmoid(found) - _sigmoid(wanted)).mean())


def _sigmoid(logits: FloatArray) -> npt.NDArray[np.float64]:
    # By tanh, which overflows nowhere.
    values: npt.NDArray[np.float64] = 0.5 * (1 + np.tanh(0.5 * logits.astype(np.float64)))
    return values
