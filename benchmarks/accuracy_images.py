"""Labelled images from several folders as one set, and what full precision says of them, once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from mimiq.cache import Cache
from mimiq.models import LoadedModel
from mimiq.pipeline import reference_graph
from mimiq.progress import Progress
from mimiq.runtime.accuracy import Comparison, compare, evaluate
from mimiq.runtime.datasets import ImageFiles, InMemoryImages, open_dataset
from mimiq.runtime.hardware import installed_version
from mimiq.runtime.onnxruntime_session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Session

DIGITS = "digits"  # in place of a folder: the held-out digits of the embedded model
Images = ImageFiles | InMemoryImages
Indices = npt.NDArray[np.int64]


def pooled(sources: Sequence[str], num_classes: int) -> Images:
    """The images of all folders, one folder after the other; or the held-out digits.

    Args:
        sources: folders as ``mimiq eval`` takes them, or ``digits`` alone.
        num_classes: of the network.

    Raises:
        BadInput: as :func:`mimiq.runtime.datasets.open_dataset`.
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


class Reference:
    """A full-precision network under ONNX Runtime on labelled images, run once and then replayed.

    Args:
        model: the network.
        images: those to judge on.
        cache: keeps the logits, by the hash of the graph and of the images.
        progress: told of the run.
    """

    def __init__(
        self, model: LoadedModel, images: Images, cache: Cache, progress: Progress
    ) -> None:
        self.model, self.images = model, images
        graph = reference_graph(model, cache, progress)
        inputs = {
            "graph": hashlib.sha256(graph.read_bytes()).hexdigest(),
            "images": content_hash(images),
            "preprocessing": model.preprocessing.to_json(),
            "runtime": installed_version("onnxruntime-gpu") or installed_version("onnxruntime"),
        }

        def make(path: Path) -> None:
            with (
                OnnxRuntimeSession(graph, device="auto", spinning=False) as session,
                progress.stage("full precision", len(images)) as stage,
            ):
                recorder = _Recorder(session)
                evaluate(recorder, images, model.preprocessing, stage=stage)
            np.save(path / "logits.npy", recorder.logits())

        path, _ = cache.get_or_make("reference-logits", inputs, make)
        self.logits: FloatArray = np.load(path / "logits.npy", allow_pickle=False)

    def judge(self, session: Session, progress: Progress) -> Judged:
        """Run a network of the same answers on all images, and compare."""
        recorder = _Recorder(session)
        with progress.stage("accuracy", len(self.images)) as stage:
            comparison = compare(
                recorder, _replayed(self.logits), self.images, self.model.preprocessing, stage=stage
            )
        labels = np.asarray(self.images.labels)
        right = recorder.logits().argmax(1) == labels
        before = self.logits.argmax(1) == labels
        return Judged(comparison, np.flatnonzero(before & ~right), np.flatnonzero(right & ~before))


@dataclass
class _Recorder:
    """A session that keeps what it answered."""

    session: Session
    parts: list[FloatArray] = field(default_factory=list)

    def __call__(self, batch: FloatArray) -> FloatArray:
        self.parts.append(self.session.run(batch))
        return self.parts[-1]

    def logits(self) -> FloatArray:
        return np.concatenate(self.parts)


def _replayed(logits: FloatArray) -> Callable[[FloatArray], FloatArray]:
    """Answers with the recorded logits, batch after batch."""
    done = 0

    def run(batch: FloatArray) -> FloatArray:
        nonlocal done
        done += len(batch)
        return logits[done - len(batch) : done]

    return run
