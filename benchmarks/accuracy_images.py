"""Labelled images from several folders as one set, and what full precision says of them, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from mimiq.cache import ASIDE, Cache
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.datasets import Batch, ImageFiles, InMemoryImages
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.host import installed_version
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Session
from mimiq.stages.graphs import ExportReference

DIGITS = "digits"  # in place of a folder: the held-out digits of the embedded model
Images = ImageFiles | InMemoryImages
Indices = npt.NDArray[np.int64]


def pooled(sources: Sequence[str], num_classes: int) -> Images:
    """The images of all folders, one folder after the other; or the held-out digits.

    Args:
        sources: folders as ``mimiq eval`` takes them, or ``digits`` alone.
        num_classes: of the network.

    Raises:
        BadInput: as :func:`mimiq.runtime.evaluation.datasets.open_dataset`.
    """
    if list(sources) == [DIGITS]:
        from mimiq.models.digits import digits_heldout

        return InMemoryImages(*digits_heldout(), num_classes)
    parts = [open_dataset(source, num_classes) for source in sources]
    return ImageFiles(
        tuple(path for part in parts for path in part.paths),
        tuple(label for part in parts for label in part.labels),
        num_classes,
    )


def spread(images: Images, most: int) -> Images:
    """At most ``most`` of the images, evenly spread over all."""
    count = min(most, len(images))
    chosen = [index * len(images) // count for index in range(count)]
    if isinstance(images, InMemoryImages):
        return replace(images, images=images.images[chosen], labels=images.labels[chosen])
    return replace(
        images,
        paths=tuple(images.paths[index] for index in chosen),
        labels=tuple(images.labels[index] for index in chosen),
    )


def content_hash(images: Images) -> str:
    """SHA-256 over the images' bytes and classes, in order; where files lie does not count."""
    digest = hashlib.sha256(np.asarray(images.labels, np.int64).tobytes())
    if isinstance(images, InMemoryImages):
        digest.update(images.images.tobytes())
    else:
        for path in images.paths:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


@dataclass(frozen=True)
class Judged:
    """A network's answers beside those of full precision.

    Attributes:
        comparison: of all images.
        lost: images that full precision alone classified rightly, by their place.
        gained: images that the network alone classified rightly.
    """

    comparison: Comparison
    lost: Indices
    gained: Indices


def full_precision(
    model: LoadedModel, images: Images, cache: Cache, progress: Progress
) -> FloatArray:
    """What the network answers under ONNX Runtime: float32 (images, outputs), run once and kept.

    Args:
        model: the network.
        images: in the order of the answers.
        cache: keeps them, by the hash of the graph and of the images.
        progress: told of the run.

    Raises:
        BadInput: an image that cannot be read.
    """
    return cache.run(_FullPrecision(model, content_hash(images), images, cache), progress)


@dataclass(frozen=True)
class _FullPrecision:
    """What the network answers, as a stage; ``content`` is the hash of the images."""

    name: ClassVar[str] = "answers"
    revision: ClassVar[int] = 1

    model: LoadedModel
    content: str
    images: Images = field(metadata=ASIDE)
    cache: Cache = field(metadata=ASIDE)
    runtime: str | None = field(
        default_factory=lambda: (
            installed_version("onnxruntime-gpu") or installed_version("onnxruntime")
        )
    )

    def make(self, folder: Path, progress: Progress) -> None:
        graph = self.cache.run(ExportReference(self.model), progress)
        with OnnxRuntimeSession(graph, device="auto", spinning=False) as session:
            found = answers(
                session, self.images, self.model.preprocessing, progress, "full precision"
            )
        np.save(folder / "answers.npy", found)

    def load(self, folder: Path) -> FloatArray:
        found: FloatArray = np.load(folder / "answers.npy", allow_pickle=False)
        return found


def answers(
    session: Session, images: Images, preprocessing: Preprocessing, progress: Progress, name: str
) -> FloatArray:
    """What a session answers to all images: float32 (images, outputs).

    Args:
        name: of the stage that ``progress`` is told of.
    """
    parts: list[FloatArray] = []
    with progress.stage(name, len(images)) as stage:
        for batch, _ in images.batches(preprocessing, 32):
            parts.append(session.run(batch))
            stage.update(sum(map(len, parts)))
    return np.concatenate(parts)


class Reference:
    """A full-precision classifier's answers to labelled images, to judge others by.

    Args: as :func:`full_precision`.
    """

    def __init__(
        self, model: LoadedModel, images: Images, cache: Cache, progress: Progress
    ) -> None:
        self.images, self.preprocessing = images, model.preprocessing
        self.logits = full_precision(model, images, cache, progress)

    def judge(self, session: Session, progress: Progress) -> Judged:
        """Run a classifier of the same classes on all images, and compare."""
        logits = answers(session, self.images, self.preprocessing, progress, "accuracy")
        comparison = compare(
            _replayed(logits), _replayed(self.logits), _Unread(self.images), self.preprocessing
        )
        labels = np.asarray(self.images.labels)
        right, before = logits.argmax(1) == labels, self.logits.argmax(1) == labels
        return Judged(comparison, np.flatnonzero(before & ~right), np.flatnonzero(right & ~before))


@dataclass(frozen=True)
class _Unread:
    """The labels of images whose answers are known: batches of them without pixels."""

    images: Images

    @property
    def num_classes(self) -> int:
        return self.images.num_classes

    def __len__(self) -> int:
        return len(self.images)

    def batches(self, preprocessing: Preprocessing, batch_size: int) -> Iterator[Batch]:
        labels = np.asarray(self.images.labels, np.int64)
        for start in range(0, len(labels), batch_size):
            part = labels[start : start + batch_size]
            yield np.empty((len(part), 0), np.float32), part


def _replayed(logits: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Answers with the recorded logits, batch after batch."""
    done = 0

    def run(batch: FloatArray) -> FloatArray:
        nonlocal done
        done += len(batch)
        return logits[done - len(batch) : done]

    return run
