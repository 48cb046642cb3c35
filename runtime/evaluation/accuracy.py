"""Top-1 and top-5 against labels, and one model against another on the same images."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput, CheckFailed
from mimiq.progress import SILENT_STAGE, Stage
from mimiq.runtime.evaluation.binary import as_classes, probability_difference
from mimiq.runtime.evaluation.class_changes import ClassCounts
from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
from mimiq.runtime.evaluation.datasets import LabelArray, LabelledImages
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Session

Classifier = Session | Callable[[FloatArray], FloatArray]


def evaluate(
    model: Classifier,
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 32,
    stage: Stage = SILENT_STAGE,
) -> Accuracy:
    """Classify every image once.

    Args:
        model: a session, or a function from float32 (B, channels, H, W) to float32 (B, classes).
            One logit tells the classes 0 and 1 apart, at a sigmoid of 0.5.
        dataset: what to classify.
        preprocessing: the model's own.
        batch_size: images at a time.
        stage: told the images that are done after each batch.

    Raises:
        BadInput: the dataset is empty, an image is unreadable, or the class counts differ.
        CheckFailed: a logit is not a finite number.
    """
    correct = correct_top5 = count = 0
    for images, labels in counted_batches(dataset, preprocessing, batch_size, stage):
        logits = _logits(model, images, dataset.num_classes, count)
        ranks = label_ranks(as_classes(logits), labels)
        correct += int((ranks == 0).sum())
        correct_top5 += int((ranks < 5).sum())
        count += len(labels)
    return Accuracy(count, correct, correct_top5)


def compare(
    model: Classifier,
    reference: Classifier,
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    *,
    batch_size: int = 32,
    stage: Stage = SILENT_STAGE,
) -> Comparison:
    """Classify every image with both, each read once. Arguments and errors as :func:`evaluate`."""
    ours, theirs = [0, 0], [0, 0]
    count = agreeing = only_model = only_reference = 0
    spread, classes = _Spread(), ClassCounts()
    for images, labels in counted_batches(dataset, preprocessing, batch_size, stage):
        logits = _logits(model, images, dataset.num_classes, count)
        expected = _logits(reference, images, dataset.num_classes, count)
        spread.add(logits, expected)
        logits, expected = as_classes(logits), as_classes(expected)
        ranks, expected_ranks = label_ranks(logits, labels), label_ranks(expected, labels)
        for sums, found in ((ours, ranks), (theirs, expected_ranks)):
            sums[0] += int((found == 0).sum())
            sums[1] += int((found < 5).sum())
        agreeing += int((logits.argmax(1) == expected.argmax(1)).sum())
        classes.add(labels, logits.argmax(1), expected.argmax(1))
        only_model += int(((ranks == 0) & (expected_ranks != 0)).sum())
        only_reference += int(((ranks != 0) & (expected_ranks == 0)).sum())
        count += len(labels)
    return Comparison(
        accuracy=Accuracy(count, ours[0], ours[1]),
        reference=Accuracy(count, theirs[0], theirs[1]),
        agreeing=agreeing,
        only_model=only_model,
        only_reference=only_reference,
        max_logit_difference=spread.largest,
        mean_logit_difference=spread.absolute / spread.values,
        logit_error=spread.relative,
        probability_difference=spread.probability / count if spread.binary else None,
        lost=() if spread.binary else classes.lost(),
    )


@dataclass
class _Spread:
    """Running sums over the differences of two models' logits."""

    values: int = 0
    largest: float = 0.0
    absolute: float = 0.0
    squared: float = 0.0
    expected: float = 0.0
    expected_squared: float = 0.0
    binary: bool = False
    probability: float = 0.0

    def add(self, logits: FloatArray, expected: FloatArray) -> None:
        reference = expected.astype(np.float64)
        difference = np.abs(logits - reference)
        self.values += difference.size
        self.largest = max(self.largest, float(difference.max()))
        self.absolute += float(difference.sum())
        self.squared += float(np.square(difference).sum())
        self.expected += float(reference.sum())
        self.expected_squared += float(np.square(reference).sum())
        moved = probability_difference(logits, expected)
        if moved is not None:
            self.binary = True
            self.probability += moved * len(logits)

    @property
    def relative(self) -> float:
        """Squared difference over the variance of what was expected."""
        variance = self.expected_squared - self.expected**2 / self.values
        return self.squared / max(variance, np.finfo(np.float64).tiny)


def label_ranks(logits: FloatArray, labels: LabelArray) -> npt.NDArray[np.int64]:
    """Place of each image's own class: 0 is first. Equal logits rank by class index, as argmax.

    Args:
        logits: float32 (B, classes).
        labels: int64 (B,).

    Returns:
        int64 (B,).
    """
    own = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1])[None, :] < labels[:, None]
    return np.asarray(((logits > own) | ((logits == own) & earlier)).sum(axis=1), np.int64)


def counted_batches(
    dataset: LabelledImages,
    preprocessing: Preprocessing,
    batch_size: int,
    stage: Stage,
) -> Iterator[tuple[FloatArray, LabelArray]]:
    """Batches of normalised images and labels; ``stage`` is told what is done after each.

    Raises:
        BadInput: the dataset is empty, or an image is unreadable.
    """
    if len(dataset) == 0:
        raise BadInput("There are no images to evaluate on.", "Give a folder with images.")
    done = 0
    for images, labels in dataset.batches(preprocessing, batch_size):
        yield images, labels
        done += len(labels)
        stage.update(done, total=len(dataset))


def _logits(model: Classifier, images: FloatArray, num_classes: int, first: int) -> FloatArray:
    run = model.run if isinstance(model, Session) else model
    logits = np.asarray(run(images))
    shapes = {(len(images), num_classes)} | ({(len(images), 1)} if num_classes == 2 else set())
    if logits.shape not in shapes:
        raise BadInput(
            f"The model gives logits of shape {logits.shape} for {len(images)} images; the labels "
            f"are for {num_classes} classes.",
            "Evaluate on the data set that the model was trained for.",
        )
    finite = np.isfinite(logits).all(axis=1)
    if not finite.all():
        raise CheckFailed(
            f"The logits of image {first + int(np.argmin(finite))} are not finite numbers.",
            "A value overflowed on the way; keep more of the network in fp32.",
        )
    return logits
