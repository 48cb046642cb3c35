"""What TensorRT is measured beside: PyTorch, ONNX Runtime, and the GPU's own ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mimiq.runtime.latency.measure import Runner


def torch_runner(name: str, device: str, compiled: bool) -> Runner:
    """timm's own network in half precision (fp32 on a CPU), with its fused attention.

    Compiled means ``torch.compile`` with CUDA graphs, once for each batch size. Times are CUDA
    events around each forward; on a CPU, the clock on the wall.
    """
    import torch

    from mimiq.models import SHORT_NAMES

    if name == "digits":
        from mimiq.models.digits import create_digits

        network = create_digits()
    else:
        import timm

        network = timm.create_model(SHORT_NAMES.get(name, name), pretrained=False)
    dtype = torch.float16 if device == "cuda" else torch.float32
    network = network.eval().to(device, dtype)
    size = int(network.patch_embed.img_size[0])  # type: ignore[union-attr,index]
    mode = "reduce-overhead" if device == "cuda" else "default"
    forward: Any = torch.compile(network, mode=mode, dynamic=False) if compiled else network
    inputs: dict[int, Any] = {}

    def run(batch: int, runs: int) -> Sequence[float]:
        if batch not in inputs:
            inputs[batch] = torch.randn(batch, 3, size, size, device=device, dtype=dtype)
        images = inputs[batch]
        with torch.inference_mode():
            if device != "cuda":
                return _wall(lambda: forward(images), runs)
            event: Any = torch.cuda.Event
            events = [(event(enable_timing=True), event(enable_timing=True)) for _ in range(runs)]
            for start, end in events:
                start.record()
                forward(images)
                end.record()
            torch.cuda.synchronize()
            return [start.elapsed_time(end) / 1000 for start, end in events]

    return run


def ort_runner(graph: Path, device: str) -> Runner:
    """ONNX Runtime on a graph; on CUDA with input and output bound to device memory.

    Times are the wall clock's around each run, the wait for its result included.
    """
    from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

    session = OnnxRuntimeSession(
        graph, device="cuda" if device == "cuda" else "cpu", spinning=False
    )
    raw: Any = session._session
    shape = session.input_shape
    inputs: dict[int, Any] = {}

    def run(batch: int, runs: int) -> Sequence[float]:
        if batch not in inputs:
            images = np.random.default_rng(batch).standard_normal((batch, *shape), np.float32)
            inputs[batch] = _bound(raw, images) if device == "cuda" else images
        given = inputs[batch]
        if device != "cuda":
            return _wall(lambda: session.run(given), runs)

        def once() -> None:
            raw.run_with_iobinding(given)
            given.synchronize_outputs()

        return _wall(once, runs)

    return run


def _bound(session: Any, images: np.ndarray[Any, Any]) -> Any:
    import onnxruntime

    binding = session.io_binding()
    value = onnxruntime.OrtValue.ortvalue_from_numpy(images, "cuda", 0)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    binding.bind_output(session.get_outputs()[0].name, "cuda")
    binding._mimiq_keeps = value  # the binding does not hold its input alive
    return binding


def _wall(work: Callable[[], object], runs: int) -> list[float]:
    seconds = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def ceilings(device: str, size: int) -> dict[str, float]:
    """Measured, not quoted: bytes a second of a copy, operations a second of square products.

    Args:
        device: ``cuda`` or ``cpu``.
        size: of the square matrices; 8192 fills a large GPU.

    Returns:
        ``copy`` in bytes/s (read and write counted), ``half`` and ``int8`` in operations/s; on a
        CPU ``half`` is fp32. What the device cannot do is left out.
    """
    import torch

    def fastest(work: Callable[[], object], repeats: int = 10) -> float:
        for _ in range(3):
            work()
        best = float("inf")
        for _ in range(repeats):
            if device == "cuda":
                torch.cuda.synchronize()
            start = time.perf_counter()
            work()
            if device == "cuda":
                torch.cuda.synchronize()
            best = min(best, time.perf_counter() - start)
        return best

    measured = {}
    source = torch.empty(size * size * 8, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    measured["copy"] = 2 * source.numel() / fastest(lambda: target.copy_(source))
    dtype = torch.float16 if device == "cuda" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)
    measured["half"] = 2 * size**3 / fastest(lambda: torch.mm(a, b, out=out))
    ints = [torch.randint(-127, 128, (size, size), dtype=torch.int8, device=device) for _ in "ab"]
    try:
        seconds = fastest(lambda: torch._int_mm(ints[0], ints[1].t()))
        measured["int8"] = 2 * size**3 / seconds
    except (RuntimeError, AttributeError):
        pass
    return measured
