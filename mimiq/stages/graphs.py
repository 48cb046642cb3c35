"""The ONNX graphs of a compilation, as stages."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from mimiq.cache import ASIDE
from mimiq.calibrate import CalibrationSet
from mimiq.models import LoadedModel
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel
from mimiq.runtime.bundle import CPU_MODEL, MODEL, OPENVINO_MODEL
from mimiq.runtime.tensorrt.record import HALF_MODEL
from mimiq.spec import Job
from mimiq.stages.tune import Tuned

FORMS = (MODEL, HALF_MODEL, CPU_MODEL, OPENVINO_MODEL)


@dataclass(frozen=True)
class ExportGraphs:
    """The Q/DQ graphs, by the name each has in the bundle; checked.

    ``model.onnx`` is fp32 outside its quantised layers, for ONNX Runtime; ``model.fp16.onnx`` is
    the same numbers in the half-precision form that TensorRT builds fastest; ``model.cpu.onnx``,
    where activations are quantised or weights are INT4, the form that ONNX Runtime runs fastest on
    a CPU; and ``model.openvino.onnx``, in that for OpenVINO.
    """

    name: ClassVar[str] = "graphs"
    revision: ClassVar[int] = 4

    tuned: str
    model: LoadedModel
    metadata: Mapping[str, str]
    quantized: QuantizedModel = field(metadata=ASIDE)

    @staticmethod
    def of(job: Job, calibration: CalibrationSet, tuned: Tuned) -> ExportGraphs:
        """Those of a tuned network; ``calibration`` is what it was tuned on."""
        metadata = graph_metadata(job.model, tuned.network, calibration)
        return ExportGraphs(tuned.cache_key, job.model, metadata, tuned.network)

    def make(self, folder: Path, progress: Progress) -> None:
        """
        Raises:
            UnsupportedTarget: when ONNX Runtime or TensorRT would refuse a node.
        """
        from mimiq.export import export_onnx, require, to_cpu, to_fp16, to_openvino

        with progress.stage("export") as stage:
            stage.update(text="Q/DQ graph")
            plain = export_onnx(
                self.quantized.module,
                self.model.preprocessing.input_shape,
                folder / MODEL,
                output=self.model.output,
                metadata=self.metadata,
            )
            stage.update(text="half-precision form for TensorRT")
            to_fp16(plain, folder / HALF_MODEL)
            stage.update(text="form for ONNX Runtime on a CPU")
            to_cpu(plain, folder / CPU_MODEL)
            stage.update(text="form for OpenVINO")
            to_openvino(plain, folder / OPENVINO_MODEL)
            stage.update(text="checking the rules of the targets")
            require(plain, "ort")

    def load(self, folder: Path) -> dict[str, Path]:
        return {form: folder / form for form in FORMS if (folder / form).is_file()}


@dataclass(frozen=True)
class ExportReference:
    """The full-precision network as ONNX."""

    name: ClassVar[str] = "fp32"
    revision: ClassVar[int] = 1

    model: LoadedModel

    def make(self, folder: Path, progress: Progress) -> None:
        from mimiq.export import export_onnx

        with progress.stage("export") as stage:
            stage.update(text="fp32 reference")
            shape, output = self.model.preprocessing.input_shape, self.model.output
            export_onnx(self.model.module, shape, folder / MODEL, output=output)

    def load(self, folder: Path) -> Path:
        return folder / MODEL


def graph_metadata(
    model: LoadedModel, quantized: QuantizedModel, calibration: CalibrationSet
) -> dict[str, str]:
    """What the ONNX file says of itself; nothing that changes from run to run."""
    return {
        "mimiq.model": model.name,
        "mimiq.config.precision": json.dumps(quantized.precision.to_json()),
        "mimiq.preprocessing": json.dumps(model.preprocessing.to_json()),
        "mimiq.weights_sha256": model.weights_hash,
        "mimiq.calibration_sha256": calibration.content_hash,
        "mimiq.untrained": json.dumps(model.untrained),
        "mimiq.output": model.output,
        "mimiq.runtimes": "any",
    }
