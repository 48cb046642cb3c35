"""Sessions on the fakes of tensorrt_fake: images for them, in memory and on the fake device."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from tensorrt_fake import SHAPE, FakeCuda, FakeEngine, FloatArray

from mimiq.runtime.tensorrt.session import TensorRTSession

Open = Callable[..., tuple[TensorRTSession, FakeEngine, FakeCuda]]


def images(batch: int, seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((batch, *SHAPE)).astype(np.float32)


class OnDevice:
    """A foreign array in the fake device's memory, with ``__cuda_array_interface__``."""

    def __init__(self, cuda: FakeCuda, values: np.ndarray[Any, Any], **overrides: Any) -> None:
        self.address = cuda.allocate(values.nbytes)
        self.values = np.frombuffer(cuda.buffers[self.address], values.dtype, values.size)
        self.values = self.values.reshape(values.shape)
        self.values[...] = values
        self.interface = {
            "shape": values.shape,
            "typestr": values.dtype.str,
            "data": (self.address, False),
            "version": 2,
        } | overrides

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return self.interface
