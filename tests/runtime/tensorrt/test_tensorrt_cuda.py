"""The CUDA calls: how their failures read, here against a stand-in for cuda-python's runtime."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.tensorrt.cuda import Cuda, Gpu, gpu_or_reason, make_allocator

MODULE = "cuda.bindings.runtime"


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A runtime whose every call succeeds with nothing; tests replace calls."""
    fake = SimpleNamespace(
        cudaSetDevice=lambda device: (0,),
        cudaGetErrorString=lambda error: (0, {2: b"out of memory", 35: b"old driver"}[int(error)]),
        cudaStreamSynchronize=lambda stream: (0,),
    )
    parent, package = ModuleType("cuda"), ModuleType("cuda.bindings")
    package.runtime = fake  # type: ignore[attr-defined]
    parent.bindings = package  # type: ignore[attr-defined]
    for name, module in (("cuda", parent), ("cuda.bindings", package), (MODULE, fake)):
        monkeypatch.setitem(sys.modules, name, module)
    return fake


def test_out_of_memory(runtime: Any) -> None:
    runtime.cudaMalloc = lambda size: (2, None)
    with pytest.raises(EnvironmentLacks, match=r"allocate 5 bytes: out of memory") as caught:
        Cuda().allocate(5)
    assert "smaller batch" in caught.value.next_step


def test_a_driver_too_old(runtime: Any) -> None:
    runtime.cudaSetDevice = lambda device: (35,)
    with pytest.raises(EnvironmentLacks, match=r"select the GPU: old driver") as caught:
        Cuda()
    assert "nvidia-smi" in caught.value.next_step


def test_nothing_is_allocated_as_one_byte(runtime: Any) -> None:
    sizes: list[int] = []
    runtime.cudaMalloc = lambda size: (sizes.append(size), (0, 4096))[1]
    assert Cuda().allocate(0) == 4096
    assert sizes == [1]


def test_gpu(runtime: Any) -> None:
    properties = SimpleNamespace(name=b"NVIDIA L4", major=8, minor=9, totalGlobalMem=24 << 30)
    runtime.cudaGetDeviceProperties = lambda device: (0, properties)
    runtime.cudaDriverGetVersion = lambda: (0, 13020)
    assert Cuda().gpu() == Gpu("NVIDIA L4", "8.9", 24 << 30, "13.2")


def test_a_failed_capture_leaves_nothing(runtime: Any) -> None:
    destroyed: list[int] = []
    runtime.cudaStreamEndCapture = lambda stream: (0, 7)
    runtime.cudaGraphInstantiate = lambda graph, flags: (2, None)
    runtime.cudaGraphDestroy = lambda graph: destroyed.append(graph)
    runtime.cudaGetLastError = lambda: (0,)
    cuda = Cuda()
    with pytest.raises(EnvironmentLacks, match="build a CUDA graph"):
        cuda.end_capture(1)
    assert destroyed == [7]
    runtime.cudaStreamEndCapture = lambda stream: (2, 0)
    cuda.abandon_capture(1)
    assert destroyed == [7]


def test_waiting_for_another_stream(runtime: Any) -> None:
    calls: list[tuple[str, Any, Any]] = []
    runtime.cudaEventDisableTiming = 2
    runtime.cudaEventCreateWithFlags = lambda flags: (0, "event")
    runtime.cudaEventRecord = lambda event, stream: (calls.append(("record", event, stream)), (0,))[
        1
    ]
    runtime.cudaStreamWaitEvent = lambda stream, event, flags: (
        calls.append(("wait", event, stream)),
        (0,),
    )[1]
    runtime.cudaEventDestroy = lambda event: calls.append(("destroy", event, None))
    Cuda().wait_for_stream("ours", 1)
    assert calls == [("record", "event", 1), ("wait", "event", "ours"), ("destroy", "event", None)]


def test_without_cuda_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    with pytest.raises(EnvironmentLacks, match="cuda-python is not installed") as caught:
        Cuda()
    assert "pip install 'cuda-python>=12.6'" in caught.value.next_step
    # The same where only a reason is asked for, as by mimiq doctor and before a session is opened.
    monkeypatch.setattr("mimiq.runtime.host.cuda_driver_present", lambda: True)
    gpu_or_reason.cache_clear()
    assert "pip install 'cuda-python>=12.6'" in str(gpu_or_reason())
    gpu_or_reason.cache_clear()


def test_without_pycuda(runtime: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pycuda", None)
    with pytest.raises(EnvironmentLacks, match="PyCUDA is not installed") as caught:
        make_allocator("pycuda", Cuda())
    assert "mimiq-vit[pycuda]" in caught.value.next_step


def test_allocators(runtime: Any) -> None:
    cuda = Cuda()
    assert make_allocator("cuda-python", cuda) is cuda
    with pytest.raises(BadInput, match="malloc"):
        make_allocator("malloc", cuda)


@pytest.mark.skipif(cuda_driver_present(), reason="this host has an NVIDIA driver and GPU")
def test_a_host_without_a_gpu(capfd: pytest.CaptureFixture[str]) -> None:
    gpu_or_reason.cache_clear()
    assert gpu_or_reason() == "No NVIDIA driver and GPU can be used on this host."
    pytest.importorskip(MODULE)
    with pytest.raises(EnvironmentLacks, match="select the GPU"):
        Cuda()
    captured = capfd.readouterr()
    assert captured.out == captured.err == ""
