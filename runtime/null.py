"""The null backend: opens what the others open, and computes nothing.

It answers at once, with logits that the images alone decide: what is left of a measured time is
that of everything but the network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from mimiq.runtime.backend import Backend, Lack

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.preprocessing import FloatArray, Preprocessing
    from mimiq.runtime.session import Images

Answer = Callable[["FloatArray", int], "FloatArray"]
"""(images, classes) → float32 (B, classes)."""


def zeros(images: FloatArray, classes: int) -> FloatArray:
    """The logits of a network that knows nothing: float32 (B, classes)."""
    import numpy as np

    return np.zeros((len(images), classes), np.float32)


class NullSession:
    """A session of no engine.

    Args:
        input_shape: (channels, height, width).
        num_classes: width of the logits.
        preprocessing: lets ``run`` take uint8 pixels.
        answer: what gives the logits.
    """

    def __init__(
        self,
        input_shape: tuple[int, int, int],
        num_classes: int,
        preprocessing: Preprocessing | None,
        answer: Answer,
    ) -> None:
        self.backend = NULL.label
        self.input_shape = input_shape
        self.num_classes = num_classes
        self._preprocessing = preprocessing
        self._answer: Answer | None = answer

    def run(self, images: Images) -> FloatArray:
        """See :meth:`mimiq.runtime.session.Session.run`."""
        from mimiq.runtime.session import as_input, closed

        if self._answer is None:
            raise closed()
        batch = as_input(images, self.input_shape, self._preprocessing)
        return self._answer(batch, self.num_classes)

    def close(self) -> None:
        """End the session; a second call does nothing."""
        self._answer = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


@dataclass(frozen=True)
class Null:
    """See :class:`mimiq.runtime.backend.Backend`.

    Attributes:
        answer: what gives the logits.
        lack: what to say is missing, for tests of what follows from that.
    """

    answer: Answer = zeros
    lack: Lack | None = None
    name: str = "null"
    title: str = "nothing: it answers without computing"
    extra: str | None = None
    label: str = "null"
    options: frozenset[str] = frozenset()
    reads_graphs: bool = False  # beside a bundle that it opens, a graph is what really runs

    def why_not(self) -> Lack | None:
        return self.lack

    def suits(self, bundle: Bundle) -> bool:
        return self.lack is None

    def graph_of(self, bundle: Bundle) -> str:
        from mimiq.runtime.bundle import MODEL

        return MODEL

    def answering(self, label: str) -> Backend | None:
        return self if label == self.label else None

    def open(self, bundle: Bundle, **options: Any) -> NullSession:
        self._check()
        preprocessing = bundle.preprocessing
        return NullSession(
            preprocessing.input_shape, bundle.num_classes, preprocessing, self.answer
        )

    def open_graph(self, path: Path, **options: Any) -> NullSession:
        """Of ONNX Runtime's reading of the graph's shapes; nothing is run."""
        from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

        self._check()
        with OnnxRuntimeSession(path) as read:
            return NullSession(read.input_shape, read.num_classes, None, self.answer)

    def _check(self) -> None:
        if self.lack is not None:
            raise self.lack.error()


NULL = Null()
