"""How near the embeddings of a network without a classifier are to those of full precision."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, CheckFailed
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.runtime.evaluation.accuracy import counted_batches
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.evaluation.held_out import relative_error
from mimiq.runtime.evaluation.intervals import Interval, wilson
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Session

Extractor = Session | Callable[[FloatArray], FloatArray]

# Another engine's rounding turns embeddings by less than that, the 5th percentile of the cosines.
MIN_COSINE = 0.98
_ROWS = 1024  # of the table of cosines that are held at a time
_IMAGES = 64  # whose directions are held at a time


@dataclass(frozen=True)
class Similarity:
    """A network's embeddings beside those of its reference, on the same images.

    Attributes:
        count: images.
        mean, percentile_5, least: of the cosines between the two embeddings of an image, or
            between those of each of its patch tokens.
        neighbours: images whose nearest other image, by cosine, is the same in both; of tokens, by
            their mean direction.
        error: mean squared difference over the variance of the reference's embeddings.
    """

    count: int
    mean: float
    percentile_5: float
    least: float
    neighbours: int
    error: float

    @property
    def neighbour_agreement(self) -> float:
        """Share of images with the same nearest neighbour, in [0, 1]."""
        return self.neighbours / self.count

    @property
    def neighbour_interval(self) -> Interval:
        """95 % interval (Wilson), in [0, 1]."""
        return wilson(self.neighbours, self.count)

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "neighbour_agreement": self.neighbour_agreement}

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Similarity:
        return Similarity(**{name: data[name] for name in Similarity.__dataclass_fields__})


@dataclass(frozen=True)
class EmbeddingCost:
    """What quantisation costs a network without a classifier.

    Attributes:
        held_out: by kind of images that nothing was fitted to: ``synthetic``, ``scenes``, …
        evaluation: on the images that the user gave.
    """

    held_out: Mapping[str, Similarity] = field(default_factory=dict)
    evaluation: Similarity | None = None

    @property
    def count(self) -> int:
        """Images held out."""
        return sum(found.count for found in self.held_out.values())

    @property
    def mean(self) -> float:
        """The mean cosine over the kinds of images held out."""
        return float(np.mean([found.mean for found in self.held_out.values()]))

    def to_json(self) -> dict[str, Any]:
        """The report's entry."""
        return {
            "evaluation": self.evaluation.to_json() if self.evaluation else None,
            "heldout": {kind: found.to_json() for kind, found in self.held_out.items()},
        }

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> EmbeddingCost:
        evaluation = data.get("evaluation")
        return EmbeddingCost(
            {kind: Similarity.from_json(found) for kind, found in data["heldout"].items()},
            Similarity.from_json(evaluation) if evaluation else None,
        )


def similarity(found: npt.NDArray[Any], wanted: npt.NDArray[Any], tokens: int = 1) -> Similarity:
    """How near embeddings ``found`` are to those ``wanted``, both (B, width) of the same images.

    Args:
        tokens: in a row, of width / tokens numbers each.

    Raises:
        BadInput: there are no images, or the shapes differ.
    """
    if found.shape != wanted.shape or found.ndim != 2 or not len(found):
        raise BadInput(
            f"Embeddings of shape {found.shape} cannot be compared with {wanted.shape}.",
            "Give two networks of the same width, and one image or more.",
        )
    parts, means = [], []
    for start in range(0, len(found), _IMAGES):  # in fp64, a row of tokens is large
        ours, theirs = (
            _directions(rows[start : start + _IMAGES].reshape(-1, rows.shape[1] // tokens))
            for rows in (found, wanted)
        )
        parts.append((ours * theirs).sum(1))
        means.append([each.reshape(-1, tokens, each.shape[1]).mean(1) for each in (ours, theirs)])
    cosines = np.concatenate(parts)
    ours, theirs = (_directions(np.concatenate(each)) for each in zip(*means, strict=True))
    return Similarity(
        count=len(found),
        mean=float(cosines.mean()),
        percentile_5=float(np.percentile(cosines, 5)),
        least=float(cosines.min()),
        neighbours=int((_nearest(ours) == _nearest(theirs)).sum()),
        error=relative_error(found, wanted),
    )


def compare_embeddings(
    model: Extractor,
    reference: Extractor,
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 32,
    tokens: int = 1,
    stage: Stage = SILENT_STAGE,
) -> Similarity:
    """Show every image to both, each read once; labels are not looked at.

    Args:
        model, reference: a session, or a function from float32 (B, channels, H, W) to float32
            (B, width).
        tokens: in an embedding, as of :func:`similarity`.
        stage: told the images that are done after each batch.

    Raises:
        BadInput: the dataset is empty, an image is unreadable, or the widths differ.
        CheckFailed: an embedding holds something that is not a finite number.
    """
    ours: list[FloatArray] = []
    theirs: list[FloatArray] = []
    done = 0
    for images, _ in counted_batches(dataset, preprocessing, batch_size, stage):
        for network, parts in ((model, ours), (reference, theirs)):
            parts.append(_embeddings(network, images, done))
        done += len(images)
    return similarity(np.concatenate(ours), np.concatenate(theirs), tokens)


def _embeddings(network: Extractor, images: FloatArray, first: int) -> FloatArray:
    run = network.run if isinstance(network, Session) else network
    found = np.asarray(run(images), np.float32)
    finite = np.isfinite(found).all(axis=1)
    if not finite.all():
        raise CheckFailed(
            f"The embedding of image {first + int(np.argmin(finite))} holds numbers that are not "
            "finite.",
            "A value overflowed on the way; keep more of the network in fp32.",
        )
    return found


def _directions(embeddings: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
    wide = embeddings.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    directions: npt.NDArray[np.float64] = wide / np.maximum(lengths, np.finfo(np.float64).tiny)
    return directions


def _nearest(directions: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Of each image, the index of the nearest other one; its own where there is no other."""
    found = np.zeros(len(directions), np.int64)
    for start in range(0, len(directions), _ROWS):
        cosines = directions[start : start + _ROWS] @ directions.T
        rows = np.arange(len(cosines))
        if len(directions) > 1:
            cosines[rows, start + rows] = -np.inf
        found[start : start + _ROWS] = cosines.argmax(1)
    return found
