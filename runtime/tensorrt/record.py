"""What stands beside an engine: which product built it, for which GPU, from which graph."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mimiq.errors import BadInput
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.tensorrt.cuda import Gpu
from mimiq.runtime.tensorrt.products import product_named

ENGINES = "engines/"
HALF_MODEL = "model.fp16.onnx"  # the bundle's graph with half-precision tensors between its layers
FP8_MODEL = "model.fp8.onnx"  # that one with FP8 in the place of INT8
BUILD_AGAIN = "Build it again with: mimiq build BUNDLE"


@dataclass(frozen=True)
class EngineRecord:
    """The content of ``engines/<name>.json``.

    Attributes:
        product: ``rtx`` or ``trt``.
        version: of the product.
        targets: TensorRT-RTX: compute capabilities it is compiled for (``8.0``), as far as known.
        forward_compatible: TensorRT-RTX: later GPUs may run it as well.
        gpu, gpu_compute_capability: TensorRT: the GPU it was built on.
        hardware_compatibility: TensorRT: ``none``, ``ampere-plus`` or ``same-compute-capability``.
        batches: smallest, typical and largest batch of its optimisation profile.
        allow_fallback: it was accepted although low precision was lost.
        source: name in the bundle of the graph it was built from, and that file's SHA-256.
        plan_sha256, plan_bytes: of the engine file.
    """

    product: str
    version: str
    targets: tuple[str, ...]
    forward_compatible: bool
    gpu: str | None
    gpu_compute_capability: str | None
    hardware_compatibility: str
    batches: tuple[int, int, int]
    allow_fallback: bool
    source: str
    source_sha256: str
    plan_sha256: str
    plan_bytes: int

    @property
    def is_fp8(self) -> bool:
        """Whether it computes in FP8, whose numbers are not those of the bundle's INT8 graph."""
        return self.source == FP8_MODEL

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def read(path: Path) -> EngineRecord:
        """Read one from its file.

        Raises:
            BadInput: it is absent, no JSON, or lacks a field.
        """
        data = read_json(path)
        try:
            return EngineRecord(
                **{
                    **{name: data[name] for name in EngineRecord.__dataclass_fields__},
                    "targets": tuple(str(target) for target in data["targets"]),
                    "batches": _batches(data["batches"]),
                }
            )
        except (KeyError, TypeError, ValueError) as error:
            raise BadInput(
                f"{path} does not describe an engine: {type(error).__name__} {error}.", BUILD_AGAIN
            ) from error

    def mismatch(self, version: str, gpu: Gpu | None, source_sha256: str | None) -> str | None:
        """Why this engine must not be run here; None where nothing speaks against it.

        Args:
            version: of the product on this host.
            gpu: the GPU here; None leaves hardware out of the question.
            source_sha256: of the graph as the bundle has it now; None if it has none.
        """
        if self.version != version:
            return f"it was built by version {self.version}, and this host has {version}"
        if source_sha256 is not None and source_sha256 != self.source_sha256:
            return f"{self.source} has changed since it was built"
        if gpu is None:
            return None
        if product_named(self.product).ahead_of_time:
            return self._targets_mismatch(gpu)
        return self._gpu_mismatch(gpu)

    def _targets_mismatch(self, gpu: Gpu) -> str | None:
        if not self.targets or gpu.compute_capability in self.targets:
            return None
        oldest = min(_numbers(target) for target in self.targets)
        if self.forward_compatible and _numbers(gpu.compute_capability) >= oldest:
            return None
        wanted = ", ".join(self.targets)
        return f"it is for compute capability {wanted}, and {gpu.name} has {gpu.compute_capability}"

    def _gpu_mismatch(self, gpu: Gpu) -> str | None:
        if self.hardware_compatibility == "ampere-plus":
            fits = _numbers(gpu.compute_capability) >= (8, 0)
        elif self.hardware_compatibility == "same-compute-capability":
            fits = gpu.compute_capability == self.gpu_compute_capability
        else:
            fits = (gpu.name, gpu.compute_capability) == (self.gpu, self.gpu_compute_capability)
        if fits:
            return None
        return f"it was built on {self.gpu} ({self.gpu_compute_capability}), and this is {gpu.name}"


def _batches(values: Any) -> tuple[int, int, int]:
    smallest, typical, largest = (int(value) for value in values)
    return smallest, typical, largest


def _numbers(capability: str) -> tuple[int, ...]:
    return tuple(int(part) for part in capability.split("."))
