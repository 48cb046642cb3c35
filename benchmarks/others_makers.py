"""Graphs that other quantisers make of a full-precision one, each as its own guide has it.

Runs under the Python of an environment that has the tool, without mimiq:

    python benchmarks/others_makers.py TOOL FP32.onnx IMAGES.npy OUT

``IMAGES.npy`` holds normalised images, float32 (N, channels, height, width); ``none`` in its place
leaves a tool to its own default. The full-precision graph has one input, ``images``.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

Images = np.ndarray[Any, np.dtype[np.float32]]
INPUT = "images"
_BATCH = 4


class _Reader:
    """ONNX Runtime's interface for calibration data, which others take too."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self.rewind()

    def get_next(self) -> dict[str, Images] | None:
        batch = next(self._batches, None)
        return None if batch is None else {INPUT: batch}

    def rewind(self) -> None:
        self._batches: Iterator[Images] = iter(
            np.split(self._images, range(_BATCH, len(self._images), _BATCH))
        )


def onnxruntime_static(fp32: Path, images: Images | None, out: Path) -> None:
    """ONNX Runtime's static quantisation, per channel; uint8 activations by minimum and maximum."""
    _onnxruntime(fp32, images, out, symmetric=False)


def onnxruntime_symmetric(fp32: Path, images: Images | None, out: Path) -> None:
    """The same with int8 activations around 0: the form that its guide has for TensorRT."""
    _onnxruntime(fp32, images, out, symmetric=True)


def _onnxruntime(fp32: Path, images: Images | None, out: Path, symmetric: bool) -> None:
    assert images is not None
    kind = "QInt8" if symmetric else "QUInt8"
    static_qdq(prepared(fp32, out.with_suffix(".prepared.onnx")), images, out, kind, symmetric)


def prepared(fp32: Path, path: Path) -> Path:
    """The graph as ONNX Runtime wants it before quantisation, written to ``path``."""
    from onnxruntime.quantization.shape_inference import quant_pre_process

    quant_pre_process(str(fp32), str(path))
    return path


def static_qdq(
    graph: Path, images: Images, out: Path, activations: str, symmetric: bool = False
) -> None:
    """ONNX Runtime's static Q/DQ with int8 weights per channel, ranges by minimum and maximum.

    Args:
        graph: of :func:`prepared`.
        activations: ``QInt8`` or ``QUInt8``.
        symmetric: their zero point is 0.
    """
    from onnxruntime import quantization

    class Reader(_Reader, quantization.CalibrationDataReader):  # type: ignore[misc]  # untyped
        pass

    quantization.quantize_static(
        str(graph),
        str(out),
        Reader(images),
        quant_format=quantization.QuantFormat.QDQ,
        activation_type=quantization.QuantType[activations],
        weight_type=quantization.QuantType.QInt8,
        per_channel=True,
        extra_options={"ActivationSymmetric": symmetric, "WeightSymmetric": True},
    )


def nncf(fp32: Path, images: Images | None, out: Path) -> None:
    """NNCF's post-training quantisation for transformers, on the ONNX graph."""
    import nncf as tool
    import onnx

    assert images is not None
    network = onnx.load(str(fp32))
    data = tool.Dataset([{INPUT: images[i : i + 1]} for i in range(len(images))])
    kind = tool.ModelType.TRANSFORMER
    quantized = tool.quantize(network, data, subset_size=len(images), model_type=kind)
    onnx.save(quantized, str(out))


def modelopt_int8(fp32: Path, images: Images | None, out: Path) -> None:
    """NVIDIA Model Optimizer's ONNX quantiser; without images it draws random ones."""
    _modelopt(fp32, images, out, "int8")


def modelopt_int4(fp32: Path, images: Images | None, out: Path) -> None:
    """Model Optimizer's INT4 weights (AWQ, clipped), activations in floating point."""
    _modelopt(fp32, images, out, "int4")


def _modelopt(fp32: Path, images: Images | None, out: Path, mode: str) -> None:
    from modelopt.onnx.quantization import quantize

    quantize(
        str(fp32),
        quantize_mode=mode,
        calibration_data=None if images is None else {INPUT: images},
        calibration_eps=["cpu"],
        high_precision_dtype="fp32",
        output_path=str(out),
    )


def quark(fp32: Path, images: Images | None, out: Path) -> None:
    """AMD Quark's INT8 for activations and weights, as its ``A8W8`` preset has it."""
    from quark import onnx as tool

    assert images is not None
    quantizer = tool.ModelQuantizer(tool.QConfig.get_default_config("A8W8"))
    quantizer.quantize_model(str(fp32), str(out), _Reader(images))


MAKERS: dict[str, Callable[[Path, Images | None, Path], None]] = {
    "onnxruntime": onnxruntime_static,
    "onnxruntime-symmetric": onnxruntime_symmetric,
    "nncf": nncf,
    "modelopt-int8": modelopt_int8,
    "modelopt-int4": modelopt_int4,
    "quark": quark,
}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("tool", choices=MAKERS)
    parser.add_argument("fp32", type=Path)
    parser.add_argument("images")
    parser.add_argument("out", type=Path)
    given = parser.parse_args()
    read = None if given.images == "none" else np.load(given.images)
    MAKERS[given.tool](given.fp32, read, given.out)
