"""ONNX Runtime: the backend that every host has."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from mimiq.errors import BadInput
from mimiq.runtime.onnxruntime.graph import failed, open_graph
from mimiq.runtime.preprocessing import FloatArray, Preprocessing
from mimiq.runtime.session import Images, OfOneProcess, as_input, closed, require_batch

_FLOAT_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


class OnnxRuntimeSession(OfOneProcess):
    """An ONNX graph with one image input and one (B, classes) output, opened by ONNX Runtime.

    A forked child that inherits it opens the file again when it first runs it, on a CPU.

    Args:
        model: the ``.onnx`` file.
        preprocessing: lets ``run`` take uint8 pixels.
        device: ``cpu``, ``cuda`` (an error where it cannot be used), or ``auto``.
        threads: CPU threads, or None for one a core that this process may use.
        spinning: let idle threads wait actively: quicker alone in a process, slower beside
            another busy session, of OpenVINO's as well.
        exact: keep int8 sums exact on x86 CPUs without VNNI, whose quick kernel adds pairs of
            products in 16 bits and saturates; costs speed there. None: where it is needed.
        optimized_model: where to write the graph as ONNX Runtime runs it, to see which kernels
            it chose.

    Raises:
        BadInput: the file is missing, corrupt, or not such a graph.
        EnvironmentLacks: ``cuda`` was asked for and cannot be used; or no onnxruntime.
    """

    def __init__(
        self,
        model: str | Path,
        preprocessing: Preprocessing | None = None,
        *,
        device: str = "cpu",
        threads: int | None = None,
        spinning: bool = True,
        exact: bool | None = None,
        optimized_model: Path | None = None,
    ) -> None:
        self._model = Path(model)
        self._preprocessing = preprocessing
        self._open = partial(
            open_graph,
            self._model,
            device=device,
            threads=threads,
            spinning=spinning,
            exact=exact,
            optimized_model=optimized_model,
        )
        opened = self._open()
        self._session: Any = opened.session
        self._on_gpu = opened.on_gpu
        self.backend = opened.backend
        self._read_signature()

    def run(self, images: Images) -> FloatArray:
        """See :meth:`mimiq.runtime.session.Session.run`."""
        if self._session is None:
            raise closed()
        if self._forked:
            self._open_again()
        batch = as_input(images, self.input_shape, self._preprocessing)
        if len(batch) == 0:
            return np.zeros((0, self.num_classes), np.float32)
        require_batch(self._model, self._fixed_batch, batch)
        feeds = {self._input: batch.astype(self._dtype, copy=False)}
        try:
            (logits,) = self._session.run([self._output], feeds)
        except Exception as error:
            raise failed(self._model, len(batch), error) from error
        if logits.shape != (len(batch), self.num_classes):
            raise BadInput(
                f"{self._model} gave an output of shape {logits.shape} for {len(batch)} images.",
                f"One row of {self.num_classes} logits an image is needed.",
            )
        return np.asarray(logits, np.float32)

    def close(self) -> None:
        """Free the session; a second call does nothing."""
        self._session = None

    def _open_again(self) -> None:
        """In a forked child: on the CPU another session of the file does what the parent's did."""
        if self._on_gpu:
            self._require_here()
        self._session = self._open().session
        self._forked = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read_signature(self) -> None:
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        shape = list(inputs[0].shape) if inputs else []
        fits = len(inputs) == 1 and len(shape) == 4
        fits = fits and all(isinstance(size, int) for size in shape[1:])
        answer = list(outputs[0].shape) if outputs else []
        classes = answer[-1] if len(answer) == 2 else None
        if not fits or not isinstance(classes, int) or inputs[0].type not in _FLOAT_TYPES:
            described = ", ".join(f"{i.name}: {i.type} {i.shape}" for i in inputs)
            raise BadInput(
                f"{self._model} is no image classifier of ours: inputs {described or 'none'}; "
                f"output {answer or 'none'}.",
                "One input (B, channels, height, width) and one output (B, classes) are needed.",
            )
        self._input, self._output = inputs[0].name, outputs[0].name
        self._dtype = _FLOAT_TYPES[inputs[0].type]
        self._fixed_batch = shape[0] if isinstance(shape[0], int) else None
        self.input_shape: tuple[int, int, int] = (shape[1], shape[2], shape[3])
        self.num_classes: int = classes
