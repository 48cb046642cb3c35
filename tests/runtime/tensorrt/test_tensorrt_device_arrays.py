"""Arrays in CUDA memory, taken and given by a TensorRT session, on fakes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tensorrt_fake import CLASSES, MAX, SHAPE, SIZE, FloatArray, expected
from tensorrt_sessions import OnDevice, Open, images

from mimiq.errors import BadInput


def from_device(array: Any) -> FloatArray:
    import ctypes

    interface = array.__cuda_array_interface__
    size = 4 * int(np.prod(interface["shape"]))
    raw = (ctypes.c_byte * size).from_address(interface["data"][0])
    return np.frombuffer(raw, np.float32).reshape(interface["shape"]).copy()


def test_device_arrays_are_used_in_place(opened: Open) -> None:
    session, _, cuda = opened()
    batch = images(2 * MAX + 1)
    source = OnDevice(cuda, batch)
    logits = session.run(source)
    np.testing.assert_array_equal(from_device(logits), expected(batch))
    assert cuda.counts["to_device"] == cuda.counts["to_host"] == cuda.counts["on_device"] == 0
    assert cuda.waits == [1]  # version 2 orders itself on the legacy default stream

    target = OnDevice(cuda, np.zeros((len(batch), CLASSES), np.float32))
    assert session.run(source, out=target) is target
    np.testing.assert_array_equal(target.values, expected(batch))


def test_small_device_batches_are_padded(opened: Open) -> None:
    session, _, cuda = opened(batches=(4, 4, MAX))
    batch = images(MAX + 2)
    np.testing.assert_array_equal(from_device(session.run(OnDevice(cuda, batch))), expected(batch))


def test_streams_of_device_arrays(opened: Open) -> None:
    session, _, cuda = opened()
    session.run(OnDevice(cuda, images(2), version=3, stream=77))
    session.run(OnDevice(cuda, images(2), version=3, stream=None))
    assert cuda.waits == [77]


def test_graphs_of_device_arrays_are_few(opened: Open) -> None:
    """A graph belongs to its addresses: captured when they come again, and the oldest dropped."""
    session, _, cuda = opened()
    targets = [
        (OnDevice(cuda, images(2, i)), OnDevice(cuda, np.zeros((2, CLASSES), np.float32)))
        for i in range(20)
    ]
    for source, target in targets:
        for _ in range(3):
            session.run(source, out=target)
        np.testing.assert_array_equal(target.values, expected(source.values))
    assert cuda.counts["capture"] == 20
    with session.lane() as lane:
        assert lane.captured <= 8


@pytest.mark.parametrize(
    ("values", "overrides"),
    [
        (np.zeros((2, *SHAPE), np.float16), {}),
        (np.zeros((2, 3, SIZE, SIZE + 1), np.float32), {}),
        (np.zeros((3, SIZE, SIZE), np.float32), {}),
        (np.zeros((2, SIZE, SIZE, 3), np.uint8), {}),
        (np.zeros((2, *SHAPE), np.float32), {"strides": (4, 8, 8, 8)}),
        (np.zeros((2, *SHAPE), np.float32), {"typestr": "nonsense"}),
    ],
)
def test_unfit_device_arrays(
    opened: Open, values: np.ndarray[Any, Any], overrides: dict[str, Any]
) -> None:
    session, _, cuda = opened()
    with pytest.raises(BadInput):
        session.run(OnDevice(cuda, values, **overrides))


def test_unfit_out(opened: Open) -> None:
    session, _, cuda = opened()
    source = OnDevice(cuda, images(2))
    with pytest.raises(BadInput, match="out in CUDA memory"):
        session.run(source, out=OnDevice(cuda, np.zeros((3, CLASSES), np.float32)))
    with pytest.raises(BadInput, match="neither"):
        session.run(source, out=[0.0])
    with pytest.raises(BadInput, match="images in CUDA memory"):
        session.run(images(2), out=OnDevice(cuda, np.zeros((2, CLASSES), np.float32)))


def test_an_array_frees_its_memory(opened: Open) -> None:
    session, _, cuda = opened()
    source = OnDevice(cuda, images(2))
    before = len(cuda.buffers)
    logits = session.run(source)
    assert len(cuda.buffers) == before + 1
    del logits
    assert len(cuda.buffers) == before
