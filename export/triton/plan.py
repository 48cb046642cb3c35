"""What is to be packed: which file of the bundle, under which names, batched how."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export.triton.config import ModelConfig
from mimiq.export.triton.openvino import for_graph, for_openvino
from mimiq.runtime.bundle import CPU_MODEL, MODEL, OPENVINO_MODEL, Bundle
from mimiq.runtime.serving.packed import (
    ONNX_FILE,
    PIXELS,
    PLAN_FILE,
    TOP_CLASSES,
    TOP_LABELS,
    TOP_PROBABILITIES,
    PackedRecord,
    Tensor,
)
from mimiq.runtime.serving.settings import manifest_tensors
from mimiq.version import __version__

DEFAULT_MAX_BATCH = 64
_PREFERRED = (8, 32)
_QUEUE_DELAY_US = 500


@dataclass(frozen=True)
class PackOptions:
    """How a bundle is to be served.

    Attributes:
        backend: ``onnxruntime`` and ``openvino`` serve the graph, ``tensorrt`` an engine of
            TensorRT proper.
        instances: copies of the model on each device.
        device: ``gpu``, ``cpu``, or ``auto``: whatever the server finds.
        max_batch: images a batch at most; None for the engine's largest, or 64.
        preprocess: take uint8 (B, H, W, C) pixels, normalised in the graph.
        top_k: also give the likeliest classes; None for the logits alone.
        accelerator: of the ``onnxruntime`` backend: ``tensorrt``, ``openvino``, ``none``, or
            ``auto``: ``tensorrt`` on ``gpu``, whose CUDA kernels know no int8 Q/DQ.
    """

    backend: Literal["onnxruntime", "tensorrt", "openvino"] = "onnxruntime"
    instances: int = 1
    device: Literal["auto", "gpu", "cpu"] = "auto"
    max_batch: int | None = None
    preprocess: bool = False
    top_k: int | None = None
    accelerator: Literal["auto", "tensorrt", "openvino", "none"] = "auto"

    @property
    def labelled(self) -> bool:
        """Whether the likeliest classes come by name as well: Triton's OpenVINO has no text."""
        return self.backend != "openvino"


@dataclass(frozen=True)
class Plan:
    """A pack operation, decided.

    ``write`` puts the model file where it is told; ``write_cpu``, where there is one, the form for
    a CPU, which stands beside it. ``batched`` says whether Triton makes batches of requests,
    ``parameters`` are the backend's, and ``model_server`` is what OpenVINO Model Server is told.
    """

    backend: str
    file: str
    write: Callable[[Path], None]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    max_batch: int
    preferred: tuple[int, ...]
    instances: int
    kind: str
    accelerator: str | None
    notes: tuple[str, ...] = ()
    write_cpu: Callable[[Path], None] | None = None
    batched: bool = True
    parameters: Mapping[str, str] = field(default_factory=dict)
    model_server: Mapping[str, Any] | None = None


def plan_for(bundle: Bundle, options: PackOptions) -> Plan:
    """Decide what to pack.

    Raises:
        BadInput: options that contradict each other or the bundle.
        UnsupportedTarget: no engine for Triton's ``tensorrt`` backend.
    """
    for name, value in (
        ("instances", options.instances),
        ("max_batch", options.max_batch),
        ("top_k", options.top_k),
    ):
        if value is not None and value < 1:
            raise BadInput(f"`{name}={value}` is out of range.", "Give 1 or more.")
    if options.backend == "tensorrt":
        return _engine_plan(bundle, options)
    if options.backend == "openvino":
        plan = _graph_plan(bundle, for_graph(options))
        return for_openvino(plan, options)
    return _graph_plan(bundle, options)


def config_of(
    plan: Plan, name: str, bundle: Bundle, version: int, known: Mapping[int, PackedRecord]
) -> ModelConfig:
    """The configuration with a new version beside the known ones."""
    parameters = {
        "mimiq_version": __version__,
        "mimiq_model": bundle.model_name,
        "mimiq_precision": bundle.precision_label,
        "mimiq_manifest_sha256": bundle.digest,
        **{f"mimiq_manifest_sha256_v{n}": old.manifest_sha256 for n, old in known.items()},
        f"mimiq_manifest_sha256_v{version}": bundle.digest,
    }
    precision_mode = "INT8" if bundle.precision.quantizes_activations else "FP16"
    accelerated = {
        "precision_mode": precision_mode,
        "max_workspace_size_bytes": str(2**30),
        "trt_engine_cache_enable": "true",
        # ONNX Runtime's key for a cached engine leaves the weights out: one folder a bundle.
        "trt_engine_cache_path": f"/tmp/mimiq-{name}-{bundle.digest[:16]}",
    }
    return ModelConfig(
        name=name,
        backend=plan.backend,
        max_batch_size=plan.max_batch if plan.batched else 0,
        inputs=plan.inputs,
        outputs=plan.outputs,
        labelled="logits" if bundle.labels is not None else None,
        preferred_batch_sizes=plan.preferred,
        queue_delay_us=_QUEUE_DELAY_US,
        instances=plan.instances,
        kind=plan.kind,
        warmup_batches=tuple(sorted({1, plan.preferred[0]})),
        accelerator=plan.accelerator,
        accelerator_parameters=accelerated if plan.accelerator == "tensorrt" else {},
        parameters={**plan.parameters, **parameters},
        filename=None if plan.batched else plan.file,
    )


def _graph_plan(bundle: Bundle, options: PackOptions) -> Plan:
    inputs = manifest_tensors(bundle, "inputs")
    outputs = manifest_tensors(bundle, "outputs")
    if options.preprocess:
        channels, height, width = bundle.preprocessing.input_shape
        inputs = (Tensor(PIXELS, "UINT8", (height, width, channels)),)
    if options.top_k is not None:
        if bundle.num_classes < 2:
            answers = "an embedding" if bundle.output == "embedding" else "one output"
            raise BadInput(
                f"`top_k={options.top_k}` is of classes, and {bundle.path} answers with {answers}.",
                "Leave `top_k` out.",
            )
        if options.top_k > bundle.num_classes:
            raise BadInput(
                f"`top_k={options.top_k}` is out of range: the model has "
                f"{bundle.num_classes} classes.",
                f"Choose 1 to {bundle.num_classes}.",
            )
        shape = (options.top_k,)
        outputs += (Tensor(TOP_PROBABILITIES, "FP32", shape), Tensor(TOP_CLASSES, "INT64", shape))
        if bundle.labels is not None and options.labelled:
            outputs += (Tensor(TOP_LABELS, "BYTES", shape),)
    accelerator = options.accelerator
    if accelerator == "auto":
        accelerator = "tensorrt" if options.device == "gpu" else "none"
    if (accelerator, options.device) in (("tensorrt", "cpu"), ("openvino", "gpu")):
        raise BadInput(
            f"The accelerator {accelerator} does not run on the {options.device}.",
            "tensorrt is for the GPU, openvino for the CPU.",
        )

    def writing(source: Path) -> Callable[[Path], None]:
        def write(out: Path) -> None:
            if not options.preprocess and options.top_k is None:
                shutil.copyfile(source, out)
                return
            from mimiq.export.triton.graph import edit_graph

            edit_graph(
                source,
                out,
                preprocessing=bundle.preprocessing if options.preprocess else None,
                top_k=options.top_k,
                labels=bundle.labels if options.labelled else None,
            )

        return write

    # OpenVINO and TensorRT read Q/DQ; only ONNX Runtime's own CPU kernels take the other form.
    form = bundle.path / CPU_MODEL if bundle.has(CPU_MODEL) else None
    if accelerator != "none" or options.device == "gpu":
        form = None
    on_cpu = options.device == "cpu"
    plain = OPENVINO_MODEL if accelerator == "openvino" and bundle.has(OPENVINO_MODEL) else MODEL
    graph = form if form is not None and on_cpu else bundle.file(plain)
    max_batch = options.max_batch or DEFAULT_MAX_BATCH
    return Plan(
        backend="onnxruntime",
        file=ONNX_FILE,
        write=writing(graph),
        write_cpu=writing(form) if form is not None and not on_cpu else None,
        inputs=inputs,
        outputs=outputs,
        max_batch=max_batch,
        preferred=_preferred(max_batch, _PREFERRED),
        instances=options.instances,
        kind=f"KIND_{options.device.upper()}",
        accelerator=None if accelerator == "none" else accelerator,
    )


def _engine_plan(bundle: Bundle, options: PackOptions) -> Plan:
    if options.preprocess or options.top_k is not None:
        raise BadInput(
            "`preprocess` and `top_k` edit the graph, and an engine is built already.",
            "Use `backend=onnxruntime`, which serves the graph.",
        )
    if options.device == "cpu" or options.accelerator not in ("auto", "none"):
        raise BadInput(
            "A TensorRT engine runs on a GPU, by itself.",
            "Choose the GPU, and leave `accelerator` out.",
        )
    engine, record = _engine(bundle)
    smallest, typical, largest = record.batches
    if smallest > 1:
        raise UnsupportedTarget(
            f"{engine} takes batches from {smallest} on, and a server also gets single images.",
            "Build it again for batches from 1 on.",
        )
    if options.max_batch is not None and options.max_batch > largest:
        raise BadInput(
            f"`max_batch={options.max_batch}` is more than the {largest} of {engine}.",
            "Choose less, or build the engine again for larger batches.",
        )
    max_batch = options.max_batch or largest

    def write(out: Path) -> None:
        shutil.copyfile(bundle.file(engine), out)

    return Plan(
        backend="tensorrt",
        file=PLAN_FILE,
        write=write,
        inputs=manifest_tensors(bundle, "inputs"),
        outputs=manifest_tensors(bundle, "outputs"),
        max_batch=max_batch,
        preferred=_preferred(max_batch, (typical,)),
        instances=options.instances,
        kind="KIND_GPU",
        accelerator=None,
        notes=(
            f"The engine was built by TensorRT {record.version} on {record.gpu}: the container "
            "must have the same version, and the host the same GPU"
            + (
                "."
                if record.hardware_compatibility == "none"
                else f" ({record.hardware_compatibility})."
            ),
        ),
    )


def _engine(bundle: Bundle) -> tuple[str, Any]:
    from mimiq.runtime.tensorrt.selection import engines_of

    engines = engines_of(bundle)
    for engine in engines:
        if engine.record.product == "trt":
            return engine.name, engine.record
    why = "it has none"
    if engines:
        why = "it has engines of TensorRT-RTX alone, which Triton does not run"
    raise UnsupportedTarget(
        f"Triton's tensorrt backend needs a TensorRT engine in {bundle.path}: {why}.",
        "Build one with `target=trt` on the serving host, or use `backend=onnxruntime`.",
    )


def _preferred(max_batch: int, sizes: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted({size for size in (*sizes, max_batch) if size <= max_batch}))
