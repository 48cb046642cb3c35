"""Where two backends part: the first tensor that differs by more than rounding explains.

A quantised network amplifies rounding: a number that falls on the other side of a threshold moves
by a whole step, and from block to block more do. How much is measured, not guessed: the reference
is also run on images changed by as much as half precision rounds them. Two backends that only round
differently stay near that at every tensor; a wrong scale, layout or an overflow leaves it at the
tensor where it happens.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from mimiq.errors import CheckFailed
from mimiq.runtime.backend import Backend
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Session

if TYPE_CHECKING:
    from mimiq.export.taps import Tap

IMAGES = 16  # that are looked at
_HALF = 2.0**-11  # half precision's relative rounding
_FACTOR = 2.0  # margin: half precision against fp32 was measured at 1.0 to 1.4 times the change
_LEAST = 8 * _HALF  # what roundings of a few layers amount to where nothing amplifies them


@dataclass(frozen=True)
class Difference:
    """One tensor in two backends, over all images and numbers.

    Attributes:
        tensor: its name in the graph.
        error: ‖ours − theirs‖ / ‖theirs‖; infinite where ours is not finite.
        expected: the same for rounding alone, with its margin.
    """

    tensor: str
    error: float
    expected: float

    @property
    def parts(self) -> bool:
        return not self.error <= self.expected

    def __str__(self) -> str:
        return f"{self.tensor} (relative error {self.error:.2g}, of rounding {self.expected:.2g})"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "parts": self.parts}


@dataclass(frozen=True)
class Divergence:
    """What was found.

    Attributes:
        blocks: the sums behind patch embedding, attention and MLP of each block, and the logits.
        first: the first tensor that parts, inside the first block that does; None where all that
            differs is what rounding explains.
    """

    blocks: tuple[Difference, ...]
    first: Difference | None

    def __str__(self) -> str:
        if self.first is not None:
            return f"They part at {self.first}."
        return (
            "As far as copies of the graph with more outputs show, they differ at no layer by more "
            f"than rounding explains, which decides near ties. At the end: {self.blocks[-1]}."
        )

    def to_json(self) -> dict[str, Any]:
        first = self.first.to_json() if self.first else None
        return {"first": first, "blocks": [block.to_json() for block in self.blocks]}


class Disagreements:
    """Two sessions as functions, which keep the images that they classify differently.

    Give :meth:`ours` and :meth:`theirs` to :func:`mimiq.runtime.evaluation.accuracy.compare`.
    """

    def __init__(self, ours: Session, theirs: Session, keep: int = IMAGES) -> None:
        self._ours, self._theirs, self._keep = ours, theirs, keep
        self._differing: list[FloatArray] = []
        self._first: list[FloatArray] = []
        self._answers: FloatArray | None = None

    def ours(self, images: FloatArray) -> FloatArray:
        self._answers = self._ours.run(images)
        self._first += list(images[: max(self._keep - len(self._first), 0)])
        self._differing += list(images[~np.isfinite(self._answers).all(axis=1)])
        return self._answers

    def theirs(self, images: FloatArray) -> FloatArray:
        answers = self._theirs.run(images)
        if self._answers is not None and len(self._differing) < self._keep:
            self._differing += list(images[answers.argmax(1) != self._answers.argmax(1)])
        return answers

    @property
    def images(self) -> FloatArray:
        """float32 (up to ``keep``, C, H, W): those that differ, filled up with the first seen."""
        return np.stack([*self._differing, *self._first][: self._keep])


def differences(
    ours: Session, theirs: Session, taps: Sequence[Tap], images: FloatArray
) -> tuple[Difference, ...]:
    """Compare two sessions of tapped graphs, tensor by tensor.

    Args:
        ours, theirs: sessions of graphs by :func:`mimiq.export.taps.tap`, with the same taps;
            ``theirs`` is the reference.
        taps: what is where in their output.
        images: float32 (B, C, H, W).
    """
    noise = np.random.default_rng(0).standard_normal(images.shape, dtype=np.float32)
    squares = np.zeros((3, len(taps)))  # of the difference, of rounding, of the reference
    for image, change in zip(images[:, None], noise[:, None], strict=True):
        # One image at a time: everything that is inside of a large network is large.
        wanted = theirs.run(image).astype(np.float64)
        nudged = theirs.run(image * (1 + np.float32(_HALF) * change))
        got = ours.run(image)
        for index, tap in enumerate(taps):
            part = np.s_[:, tap.start : tap.stop]
            squares[0, index] += _square(got[part] - wanted[part])
            squares[1, index] += _square(nudged[part] - wanted[part])
            squares[2, index] += _square(wanted[part])
    error, rounding, scale = np.sqrt(squares)
    scale = np.maximum(scale, np.finfo(np.float32).tiny)
    return tuple(
        Difference(tap.name, float(e / s), float(max(_FACTOR * r / s, _LEAST)))
        for tap, e, r, s in zip(taps, error, rounding, scale, strict=True)
    )


def _square(values: npt.NDArray[Any]) -> float:
    if not np.isfinite(values).all():
        return float("inf")
    return float(np.square(values, dtype=np.float64).sum())


def diverge(bundle: Bundle, ours: Backend, theirs: Backend, images: FloatArray) -> Divergence:
    """Find where a bundle's backends part.

    Blocks are compared first, and then what is inside the first that parts. A TensorRT engine is
    built for each, from the bundle's graph with more outputs.

    Args:
        ours, theirs: the backends; see :func:`mimiq.runtime.backends.backend_of` for that of a
            session.
        images: float32 (B, C, H, W), normalised; a few.

    Raises:
        EnvironmentLacks: the library that reads graphs is not installed (extra ``compile``), or a
            backend is absent.
        MimiqError: a graph with more outputs cannot be built.
    """
    from mimiq.errors import missing_extra

    try:
        from mimiq.export.taps import between, block_sums
    except ImportError as error:
        raise missing_extra("onnx-ir", "pack") from error
    blocks = _compared(bundle, ours, theirs, block_sums(bundle.model_path), images)
    bad = next((index for index, block in enumerate(blocks) if block.parts), None)
    if bad is None:
        return Divergence(blocks, None)
    before = blocks[bad - 1].tensor if bad else None
    names = between(bundle.model_path, before, blocks[bad].tensor)
    inside = _compared(bundle, ours, theirs, names, images)
    return Divergence(blocks, next((d for d in inside if d.parts), blocks[bad]))


def _compared(
    bundle: Bundle, ours: Backend, theirs: Backend, names: Sequence[str], images: FloatArray
) -> tuple[Difference, ...]:
    with ExitStack() as stack:
        mine, taps = stack.enter_context(_tapped(bundle, ours, names))
        other, same = stack.enter_context(_tapped(bundle, theirs, names))
        if taps != same:
            raise CheckFailed(
                f"The graphs of {ours.label} and {theirs.label} share too few tensors to be "
                "compared.",
                "Compile the model again, so that both come from the same graph.",
            )
        return differences(mine, other, taps, images)


@contextmanager
def _tapped(
    bundle: Bundle, backend: Backend, names: Sequence[str]
) -> Iterator[tuple[Session, list[Tap]]]:
    """A session of a backend on the graph that it is given, with more outputs."""
    from mimiq.export.taps import tap

    with tempfile.TemporaryDirectory() as folder:
        graph = Path(folder) / "tapped.onnx"
        taps = tap(bundle.file(backend.graph_of(bundle)), graph, names)
        options = {"spinning": False} if "spinning" in backend.options else {}
        with backend.open_graph(graph, **options) as session:
            yield session, taps
