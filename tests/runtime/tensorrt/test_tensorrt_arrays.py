"""Foreign arrays in GPU memory, seen through their protocols. No memory is touched."""

from __future__ import annotations

import ctypes
import gc
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiq.errors import BadInput
from mimiq.runtime.tensorrt.arrays import DeviceArray, is_device_array, view


class _Managed(ctypes.Structure):
    """DLPack's ``DLManagedTensor``, written out from its specification."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
        ("manager", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
    )


class DLPackOnly:
    """An array that knows no protocol but DLPack."""

    def __init__(
        self,
        shape: tuple[int, ...],
        strides: tuple[int, ...] | None = None,
        device: int = 2,
        kind: tuple[int, int] = (2, 32),
    ) -> None:
        self.streams: list[Any] = []
        self.device = device
        managed = self.managed = _Managed()
        managed.data, managed.byte_offset = 4096, 64
        managed.device_type, managed.lanes = device, 1
        managed.code, managed.bits = kind
        managed.ndim = len(shape)
        self._sizes = (ctypes.c_int64 * len(shape))(*shape)
        managed.shape = ctypes.cast(self._sizes, ctypes.POINTER(ctypes.c_int64))
        if strides is not None:
            self._steps = (ctypes.c_int64 * len(shape))(*strides)
            managed.strides = ctypes.cast(self._steps, ctypes.POINTER(ctypes.c_int64))

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.device, 0

    def __dlpack__(self, *, stream: Any = None) -> Any:
        self.streams.append(stream)
        new = ctypes.pythonapi.PyCapsule_New
        new.restype = ctypes.py_object
        new.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)
        return new(ctypes.addressof(self.managed), b"dltensor", None)


def test_dlpack() -> None:
    array = DLPackOnly((5, 3, 2, 2))
    assert is_device_array(array)
    seen = view(array, stream=77)
    assert array.streams == [77]  # the producer orders itself before our stream
    assert (seen.address, seen.shape, seen.dtype) == (4160, (5, 3, 2, 2), np.float32)
    assert seen.contiguous
    assert seen.stream is None


@pytest.mark.parametrize(
    ("strides", "contiguous"), [((4, 2, 1), True), ((1, 3, 6), False), ((4, 2, 2), False)]
)
def test_dlpack_strides_count_elements(strides: tuple[int, ...], contiguous: bool) -> None:
    assert view(DLPackOnly((3, 2, 2), strides), stream=1).contiguous is contiguous


def test_dlpack_types() -> None:
    assert view(DLPackOnly((2,), kind=(2, 16)), stream=1).dtype == np.float16
    assert view(DLPackOnly((2,), kind=(1, 8)), stream=1).dtype == np.uint8
    with pytest.raises(BadInput):
        view(DLPackOnly((2,), kind=(4, 16)), stream=1)  # bfloat16, which numpy has not


def test_dlpack_on_the_host() -> None:
    assert not is_device_array(DLPackOnly((2,), device=1))
    with pytest.raises(BadInput, match="CUDA memory"):
        view(DLPackOnly((2,), device=1), stream=1)


def interface(**entries: Any) -> Any:
    base = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "version": 2}
    return SimpleNamespace(__cuda_array_interface__=base | entries)


def test_cuda_array_interface() -> None:
    seen = view(interface(), stream=1)
    assert (seen.address, seen.shape, seen.dtype, seen.stream) == (4096, (2, 3), np.float32, 1)
    assert view(interface(version=3, stream=9), stream=1).stream == 9
    assert view(interface(version=3, stream=None), stream=1).stream is None
    assert view(interface(version=3), stream=1).stream is None
    assert view(interface(data=(None, False), shape=(0, 3)), stream=1).address == 0


@given(
    shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), transposed=st.booleans()
)
def test_contiguity_is_numpys(shape: tuple[int, ...], transposed: bool) -> None:
    array = np.zeros(shape, np.float32)
    array = array.T if transposed else array
    seen = view(interface(shape=array.shape, strides=array.strides), stream=1)
    assert seen.contiguous == array.flags.c_contiguous


@pytest.mark.parametrize(
    "broken",
    [{"shape": None}, {"typestr": "?!"}, {"data": None}, {"shape": (2, 3), "strides": (4,)}],
)
def test_broken_interfaces(broken: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match="cannot be read as a CUDA array"):
        view(interface(**broken), stream=1)


def test_host_arrays() -> None:
    assert not is_device_array(np.zeros(3))
    assert not is_device_array([1.0])
    assert not is_device_array(None)
    with pytest.raises(BadInput, match="neither"):
        view(object(), stream=1)


def test_torch_tensors_on_the_host() -> None:
    torch = pytest.importorskip("torch")
    assert not is_device_array(torch.zeros(3))


def test_device_array() -> None:
    freed: list[int] = []
    array = DeviceArray(4096, (2, 3), freed.append)
    assert is_device_array(array)
    seen = view(array, stream=1)
    assert (seen.address, seen.shape, seen.contiguous, seen.stream) == (4096, (2, 3), True, None)
    array.release()
    array.release()
    assert freed == [4096]
    with pytest.raises(BadInput, match="memory is gone"):
        _ = array.address
    DeviceArray(8192, (2, 3), freed.append)
    gc.collect()
    assert freed == [4096, 8192]
