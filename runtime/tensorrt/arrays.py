"""Arrays in GPU memory, shared with torch, CuPy, PyCUDA and others without a copy."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from mimiq.errors import BadInput

_CUDA, _CUDA_MANAGED = 2, 13  # DLDeviceType
_KINDS = {0: "i", 1: "u", 2: "f"}  # DLDataTypeCode
_LEGACY_STREAM = 1  # what __cuda_array_interface__ and DLPack call the legacy default stream


@dataclass(frozen=True)
class DeviceView:
    """Somebody's array in GPU memory.

    Attributes:
        address: of the first element.
        shape: its sizes.
        dtype: its type.
        contiguous: whether it lies densely in C order.
        stream: handle of the stream whose work must be done before it may be read; None: no one's.
        owner: keeps the memory alive.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    contiguous: bool
    stream: int | None
    owner: Any


def is_device_array(candidate: Any) -> bool:
    """Whether an object lives in CUDA memory: by its interfaces, without importing its library."""
    if isinstance(candidate, np.ndarray):
        return False
    if getattr(candidate, "__cuda_array_interface__", None) is not None:
        return True
    device = getattr(candidate, "__dlpack_device__", None)
    return callable(device) and int(device()[0]) in (_CUDA, _CUDA_MANAGED)


def view(array: Any, stream: int) -> DeviceView:
    """A view of a device array.

    Args:
        array: anything with ``__cuda_array_interface__`` (any version) or DLPack.
        stream: handle of the stream that will use it; DLPack's producer orders itself before it.

    Raises:
        BadInput: the object has neither, or describes something that is no plain array.
    """
    interface = getattr(array, "__cuda_array_interface__", None)
    try:
        if interface is not None:
            return _from_interface(interface, array)
        if hasattr(array, "__dlpack__"):
            return _from_dlpack(array.__dlpack__(stream=stream), array)
    except (KeyError, TypeError, ValueError, BufferError, RuntimeError) as error:
        raise BadInput(
            f"A {type(array).__name__} cannot be read as a CUDA array: {error}",
            "Pass a contiguous float32 array of torch, CuPy or PyCUDA, or a numpy array.",
        ) from error
    raise BadInput(
        f"A {type(array).__name__} has neither __cuda_array_interface__ nor __dlpack__.",
        "Pass an array of torch, CuPy, PyCUDA or numpy.",
    )


def _from_interface(interface: dict[str, Any], owner: Any) -> DeviceView:
    shape = tuple(int(size) for size in interface["shape"])
    dtype = np.dtype(interface["typestr"])
    strides = interface.get("strides")
    # Version 3 names the stream; before it, what is in the legacy default stream must be done.
    stream = interface.get("stream") if interface.get("version", 0) >= 3 else _LEGACY_STREAM
    return DeviceView(
        address=int(interface["data"][0] or 0),
        shape=shape,
        dtype=dtype,
        contiguous=strides is None or _is_dense(shape, tuple(strides), dtype.itemsize),
        stream=stream,
        owner=owner,
    )


class _DLTensor(ctypes.Structure):
    """The fields of DLPack's ``DLTensor``, the first member of every managed tensor."""

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
    )


def _from_dlpack(capsule: Any, owner: Any) -> DeviceView:
    """The capsule is not consumed: it is kept, and its own destructor frees the tensor."""
    get: Any = ctypes.pythonapi.PyCapsule_GetPointer
    get.restype, get.argtypes = ctypes.c_void_p, (ctypes.py_object, ctypes.c_char_p)
    tensor = _DLTensor.from_address(get(capsule, b"dltensor"))
    if tensor.device_type not in (_CUDA, _CUDA_MANAGED) or tensor.lanes != 1:
        raise ValueError("it is not a plain array in CUDA memory")
    dtype = np.dtype(f"{_KINDS[tensor.code]}{tensor.bits // 8}")
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] for i in range(tensor.ndim)) if tensor.strides else None
    return DeviceView(
        address=int(tensor.data or 0) + tensor.byte_offset,
        shape=shape,
        dtype=dtype,
        contiguous=strides is None or _is_dense(shape, strides, 1),
        stream=None,  # __dlpack__ was given the consumer's stream
        owner=(owner, capsule),
    )


def _is_dense(shape: tuple[int, ...], strides: tuple[int, ...], itemsize: int) -> bool:
    expected = itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size > 1 and stride != expected:
            return False
        expected *= size
    return True


class DeviceArray:
    """A float32 array in GPU memory that a session made, complete when it is returned.

    ``torch.as_tensor(array, device="cuda")`` and ``cupy.asarray(array)`` use its memory as it is;
    it lives as long as this object does, and no longer than its session.
    """

    def __init__(self, address: int, shape: tuple[int, ...], free: Callable[[int], None]) -> None:
        self.shape = shape
        self.dtype = np.dtype(np.float32)
        self._address: int | None = address
        self._free = free

    @property
    def address(self) -> int:
        """Of the first element.

        Raises:
            BadInput: the session is closed.
        """
        if self._address is None:
            raise BadInput(
                "The array's session is closed, and its memory is gone.",
                "Use the array before the session ends, or copy it.",
            )
        return self._address

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "stream": None,  # its work was waited for
            "version": 3,
        }

    def release(self) -> None:
        """Give the memory back; a second call does nothing."""
        if self._address is not None:
            address, self._address = self._address, None
            self._free(address)

    def __del__(self) -> None:
        self.release()
