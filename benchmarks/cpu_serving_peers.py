"""Peers of ``cpu_serving.py``: engines that are not mimiq's, with the options their users have.

As a program it is the measuring process of one of them; see ``mimiq.runtime.latency.worker``. For
OpenVINO it runs under the Python of an environment that has openvino.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Self

import numpy as np
from others_makers import prepared, static_qdq

from mimiq.runtime.latency.measure import Engine
from mimiq.runtime.latency.worker import serve
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Session

OPENVINO, OPENVINO_FP32 = "openvino", "openvino-fp32"


class Plain:
    """An ONNX file with ONNX Runtime's or OpenVINO's defaults."""

    def __init__(self, path: Path, runtime: str, threads: int | None) -> None:
        self.backend = f"{runtime}-cpu"
        if runtime.startswith("openvino"):
            import openvino

            config = {"PERFORMANCE_HINT": "LATENCY"}
            if runtime == OPENVINO_FP32:  # else it takes bfloat16 where the CPU has it
                config["INFERENCE_PRECISION_HINT"] = "f32"
            if threads is not None:
                config["INFERENCE_NUM_THREADS"] = str(threads)
            compiled = openvino.Core().compile_model(str(path), "CPU", config)
            self._run: Any = lambda images: compiled({0: images})[0]
            shape = compiled.input(0).partial_shape
            self.input_shape = tuple(shape[axis].get_length() for axis in (1, 2, 3))
            self.num_classes = compiled.output(0).partial_shape[1].get_length()
            return
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        (given,), (output,) = session.get_inputs(), session.get_outputs()
        self._run = lambda images: session.run(None, {given.name: images})[0]
        self.input_shape = tuple(given.shape[1:])
        self.num_classes = output.shape[-1]

    def run(self, images: Any) -> FloatArray:
        return np.asarray(self._run(np.ascontiguousarray(images, np.float32)), np.float32)

    def close(self) -> None:
        self._run = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def open_peer(engine: Engine) -> Session:
    """The engine's backend is ``onnxruntime``, ``openvino`` or ``openvino-fp32``."""
    opened: Any = Plain(engine.path, engine.backend, engine.threads)
    return opened  # type: ignore[no-any-return]


def static_quantization(fp32: Path, images: FloatArray, folder: Path) -> dict[str, Path]:
    """ONNX Runtime's own static Q/DQ, per-channel weights, min–max, as its guide has it.

    Args:
        fp32: the full-precision graph.
        images: float32 (N, 3, S, S), normalised.
        folder: where to write.

    Returns:
        Files by ``s8s8`` and ``u8s8``: types of activations and weights.
    """
    graph = prepared(fp32, folder / "prepared.onnx")
    files = {}
    for name, activations in (("s8s8", "QInt8"), ("u8s8", "QUInt8")):
        files[name] = folder / f"static-{name}.onnx"
        static_qdq(graph, images, files[name], activations)
    return files


def nncf_quantization(fp32: Path, images: FloatArray, out: Path) -> Path:
    """NNCF's post-training quantisation for transformers, as OpenVINO's ``.xml``."""
    import nncf
    import openvino

    network = openvino.Core().read_model(str(fp32))
    quantized = nncf.quantize(
        network,
        nncf.Dataset([images[i : i + 1] for i in range(len(images))]),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    openvino.save_model(quantized, str(out), compress_to_fp16=False)
    return out


def _logits(engine: Engine, images: Path, out: Path) -> None:
    """Logits of many images, for accuracy; in a process of its own like the timing."""
    given = np.load(images)
    with open_peer(engine) as session:
        rows = [session.run(part) for part in np.split(given, range(20, len(given), 20))]
    np.save(out, np.concatenate(rows))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nncf", nargs=3, metavar=("FP32", "IMAGES", "OUT"), type=Path)
    parser.add_argument("--logits", nargs=3, metavar=("MODEL", "IMAGES", "OUT"), type=Path)
    parser.add_argument("--runtime", default=OPENVINO)
    given = parser.parse_args()
    if given.nncf:
        nncf_quantization(given.nncf[0], np.load(given.nncf[1]), given.nncf[2])
    elif given.logits:
        _logits(Engine(given.logits[0], given.runtime), given.logits[1], given.logits[2])
    else:
        serve(open_peer)
