"""What bundles are held against on a CPU: graphs that other tools make of the same network.

``cpu_serving.py`` times them whole, ``cpu_operations.py`` operation by operation.
"""

from __future__ import annotations

import argparse
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from cpu_serving_peers import static_quantization

from mimiq.calibrate import CalibrationSet
from mimiq.export import export_onnx
from mimiq.models import LoadedModel, load_model
from mimiq.runtime.preprocessing import FloatArray

PEERS = str(Path(__file__).with_name("cpu_serving_peers.py"))


@dataclass(frozen=True)
class Rivals:
    """The network and its graphs.

    Attributes:
        model: the network.
        fp32: in full precision, as ONNX.
        static: by ONNX Runtime's own static quantisation, under ``s8s8`` and ``u8s8``.
        nncf: NNCF's INT8 as OpenVINO's ``.xml``; None without a Python that has it.
    """

    model: LoadedModel
    fp32: Path
    static: Mapping[str, Path]
    nncf: Path | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What :func:`make_rivals` reads, and the bundles."""
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path, help="without them only speed means anything")
    parser.add_argument("--image-size", type=int)
    parser.add_argument(
        "--calibration", type=Path, required=True, help="folder of synthetic images"
    )
    parser.add_argument("--calibration-images", type=int, default=32)
    parser.add_argument("--bundle", type=Path, action="append", default=[])
    parser.add_argument(
        "--openvino", metavar="PYTHON", help="of an environment with openvino, nncf"
    )


def make_rivals(arguments: argparse.Namespace, scratch: Path) -> Rivals:
    """All of them, calibrated on the same images, written to ``scratch``."""
    model = load_model(
        arguments.model,
        weights=arguments.weights,
        untrained=arguments.weights is None,
        image_size=arguments.image_size,
    )
    fp32 = export_onnx(model.module, model.preprocessing.image_size, scratch / "fp32.onnx")
    pixels = CalibrationSet.open(arguments.calibration).images()[: arguments.calibration_images]
    images = model.preprocessing.normalize(pixels)
    static = static_quantization(fp32, images, scratch)
    python = arguments.openvino
    nncf = nncf_graph(python, fp32, images, scratch) if python else None
    return Rivals(model, fp32, static, nncf)


def nncf_graph(python: str, fp32: Path, images: FloatArray, scratch: Path) -> Path:
    """NNCF's INT8, made under the other Python."""
    given, quantized = scratch / "images.npy", scratch / "nncf.xml"
    np.save(given, images)
    subprocess.run([python, PEERS, "--nncf", str(fp32), str(given), str(quantized)], check=True)
    return quantized
