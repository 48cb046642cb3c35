"""What every backend offers: a session that maps a batch of images to logits or embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, Self, runtime_checkable

import numpy as np
import numpy.typing as npt

from mimiq.errors import BadInput
from mimiq.runtime.forking import Forkable
from mimiq.runtime.preprocessing import FloatArray, Preprocessing

Images = npt.NDArray[np.float32] | npt.NDArray[np.uint8]
Output = Literal["logits", "embedding"]  # what a network answers with


@runtime_checkable
class Session(Protocol):
    """An opened model. Close it, or use it as a context manager."""

    @property
    def backend(self) -> str:
        """Name of the engine and device, e.g. ``onnxruntime-cpu``."""

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(channels, height, width): one image's shape after normalisation."""

    @property
    def num_classes(self) -> int:
        """Width of the output: the number of classes, or that of an embedding."""

    def run(self, images: Images) -> FloatArray:
        """Run a batch of any size, 0 included.

        Args:
            images: float32 (B, C, H, W), normalised as the manifest says; or uint8 (B, H, W, C),
                pixels, which the session normalises.

        Returns:
            float32 (B, width): the logits, or of a network without a classifier the embeddings.

        Raises:
            BadInput: another dtype or shape, NaN or infinity, or the session is closed.
        """

    def close(self) -> None:
        """Free the engine. A second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class OfOneProcess(Forkable):
    """Base of sessions: their engines live in the process that opened them."""

    backend: str
    input_shape: tuple[int, int, int]
    num_classes: int

    def __repr__(self) -> str:
        shape = ", ".join(map(str, self.input_shape))
        name = type(self).__name__
        return f"<{name} {self.backend}: float32 (B, {shape}) to (B, {self.num_classes})>"

    def __reduce__(self) -> Any:
        raise BadInput(
            "A session cannot be pickled, nor sent to another process.",
            "Send the bundle's path, and open it there: mimiq.open_bundle(path).",
        )


@dataclass(frozen=True)
class Prediction:
    """One of an image's most likely classes.

    Attributes:
        index: class index.
        label: the class's name, or None where the bundle has no labels.
        probability: softmax of the logits, in [0, 1].
    """

    index: int
    label: str | None
    probability: float


def closed() -> BadInput:
    """The error of a session that is used after its end."""
    return BadInput("The session is closed.", "Open the bundle again.")


def require_batch(model: Path, only: int | None, batch: FloatArray) -> None:
    """Refuse a batch of another size than the one that a graph was exported for.

    Args:
        model: the graph's file.
        only: the size that it takes; None for any.
        batch: (B, …).

    Raises:
        BadInput: naming both sizes.
    """
    if only is not None and len(batch) != only:
        raise BadInput(
            f"{model} takes batches of {only} images, not {len(batch)}.",
            "Export it with a dynamic batch.",
        )


def as_input(
    images: Any, input_shape: tuple[int, int, int], preprocessing: Preprocessing | None
) -> FloatArray:
    """Check a batch, and normalise it if it holds pixels.

    Args:
        images: float32 (B, C, H, W), or uint8 (B, H, W, C) if ``preprocessing`` is known.
        input_shape: (channels, height, width).
        preprocessing: mean and standard deviation for uint8 batches.

    Returns:
        float32 (B, C, H, W), C-contiguous; the same memory where nothing had to be done.

    Raises:
        BadInput: naming what was expected and what was given, or the first image that holds NaN
            or infinity.
    """
    channels, height, width = input_shape
    masked = isinstance(images, np.ma.MaskedArray)  # what it hides would reach the network
    if isinstance(images, np.ndarray) and images.ndim == 4 and not masked:
        if images.dtype == np.float32 and images.shape[1:] == input_shape:
            check_finite(images, "The images")
            return np.ascontiguousarray(images)
        pixels = images.dtype == np.uint8 and images.shape[1:] == (height, width, channels)
        if pixels and preprocessing is not None:
            return preprocessing.normalize(images)
    wanted = f"float32 (B, {channels}, {height}, {width})"
    if preprocessing is not None:
        wanted += f" or uint8 (B, {height}, {width}, {channels})"
    given = (
        f"{'masked ' if masked else ''}{images.dtype} {images.shape}"
        if isinstance(images, np.ndarray)
        else f"a {type(images).__name__}"
    )
    raise BadInput(
        f"The images are {given}; this model takes {wanted}.",
        "Load files with bundle.preprocessing.load(paths), or convert the array.",
    )


def check_finite(images: FloatArray, what: str) -> None:
    """Refuse values that an INT8 network would answer with a confident class.

    Args:
        images: (B, …).
        what: they are, as the message's first words.

    Raises:
        BadInput: naming the first image that holds NaN or infinity.
    """
    # A sum is a quarter of the price of a look at every value, and finite unless one is not, or
    # they are huge.
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(images.sum()):
            return
    finite = np.isfinite(images).reshape(len(images), -1).all(axis=1)
    if not finite.all():
        raise BadInput(
            f"{what} hold NaN or infinity, first at index {int(finite.argmin())} of the batch.",
            "Look for a division by zero or a missing value in what prepares them.",
        )


def classify(
    session: Session,
    paths: Sequence[str | Path],
    preprocessing: Preprocessing,
    labels: Sequence[str] | None = None,
    top_k: int = 5,
) -> list[list[Prediction]]:
    """Most likely classes of image files, the likeliest first, one list a file.

    Raises:
        BadInput: a file cannot be read as an image.
    """
    if not paths:
        return []
    logits = session.run(preprocessing.load(paths)).astype(np.float64)
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    order = np.argsort(-logits, axis=1, kind="stable")[:, :top_k]
    return [
        [
            Prediction(int(index), labels[index] if labels else None, float(row[index]))
            for index in best
        ]
        for row, best in zip(probabilities, order, strict=True)
    ]
