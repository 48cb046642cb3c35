"""From an ONNX Q/DQ graph to an engine, with either product.

Networks are strongly typed: every precision comes from the graph. TensorRT 11 knows nothing else,
10.8 and later take the same networks, and TensorRT-RTX builds them on hosts without a GPU.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from mimiq.errors import BadInput, EnvironmentLacks, MimiqError
from mimiq.export.tensorrt.network import WantedProduct, wanted_products
from mimiq.files import write_whole
from mimiq.runtime.tensorrt.messages import (
    Message,
    builder_error,
    captured_stderr,
    collector,
    parser_error,
    reinterpreted,
)
from mimiq.runtime.tensorrt.products import Product

HardwareCompatibility = Literal["none", "ampere-plus", "same-compute-capability"]


@dataclass(frozen=True)
class BuildOptions:
    """How an engine is built.

    Attributes:
        batches: smallest, typical and largest batch of the optimisation profile.
        compute_capabilities: TensorRT-RTX only: GPUs to compile for, ``("8.6", "8.9")``. Empty: one
            engine for 8.0 and everything later.
        hardware_compatibility: TensorRT only: which other GPUs may run the engine.
        workspace_bytes: limit of the scratch memory; None for the library's own.
        timing_cache: TensorRT only: file of kernel timings, read if there and updated.
        allow_fallback: accept an engine in which low precision was lost.
    """

    batches: tuple[int, int, int] = (1, 8, 128)
    compute_capabilities: tuple[str, ...] = ()
    hardware_compatibility: HardwareCompatibility = "none"
    workspace_bytes: int | None = None
    timing_cache: Path | None = None
    allow_fallback: bool = False

    def __post_init__(self) -> None:
        smallest, typical, largest = self.batches
        if not 1 <= smallest <= typical <= largest:
            raise BadInput(
                f"The batches {smallest}, {typical}, {largest} are not an optimisation profile.",
                "Give smallest ≤ typical ≤ largest, all at least 1.",
            )
        if self.workspace_bytes is not None and self.workspace_bytes < 1:
            raise BadInput(
                f"A workspace of {self.workspace_bytes} bytes is none.", "Give a positive size."
            )


@dataclass(frozen=True)
class BuiltEngine:
    """A serialised engine, and how it came about.

    Attributes:
        plan: the engine's bytes.
        log: everything the parser and builder said.
        seconds: from parsing to the finished engine.
        batches: smallest, typical and largest batch it takes.
        wanted: the types that the graph gave to each matrix product.
    """

    plan: bytes
    log: tuple[Message, ...]
    seconds: float
    batches: tuple[int, int, int]
    wanted: tuple[WantedProduct, ...]

    @property
    def warnings(self) -> list[str]:
        """Distinct warnings, in order."""
        texts = (message.text for message in self.log if message.severity == "warning")
        return list(dict.fromkeys(texts))


def build_engine(onnx_path: str | Path, product: Product, options: BuildOptions) -> BuiltEngine:
    """Build one engine from an ONNX file.

    Raises:
        BadInput: the file is absent, truncated or no ONNX model of one batched input, or an option
            does not exist for this product.
        UnsupportedTarget: the graph holds something that the product or the GPU cannot run.
        BuildFailed: the builder gave up for another reason; its words are in the message.
        EnvironmentLacks: the library, or for TensorRT the GPU, is absent.
    """
    path = Path(onnx_path)
    try:
        serialized = path.read_bytes()
    except OSError as error:
        raise BadInput(f"ONNX file {path} cannot be read: {error}", "Check the path.") from error
    if not serialized:
        raise BadInput(f"{path} is empty.", "Export it again.")
    library = product.load()
    if not product.can_build_here():
        raise EnvironmentLacks(
            f"{product.title} times its kernels on a GPU. {product.why_not_run()}",
            "Run mimiq build on the host that will serve the model, or choose `target=rtx`.",
        )
    started = time.perf_counter()
    messages: list[Message] = []
    logger = collector(library, messages)
    with captured_stderr(messages):
        plan, batches, wanted = _build(
            path, serialized, library, logger, messages, product, options
        )
    return BuiltEngine(plan, tuple(messages), time.perf_counter() - started, batches, wanted)


def _build(
    path: Path,
    serialized: bytes,
    library: Any,
    logger: Any,
    messages: list[Message],
    product: Product,
    options: BuildOptions,
) -> tuple[bytes, tuple[int, int, int], tuple[WantedProduct, ...]]:
    builder = library.Builder(logger)
    if builder is None:
        raise builder_error(path, product.title, messages)
    flag = getattr(library.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = library.OnnxParser(network, logger)
    if not parser.parse(serialized, str(path)):
        raise parser_error(path, product.title, parser)
    changed = reinterpreted(path, product.title, messages)
    if changed is not None:
        raise changed
    config = builder.create_builder_config()
    batches = _add_profile(path, network, builder, config, options)
    _configure(library, config, product, options)
    cache = _attach_timing_cache(config, product, options)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise _explained(path, library, network, product, messages)
    if cache is not None and options.timing_cache is not None:
        write_whole(options.timing_cache, bytes(config.get_timing_cache().serialize()))
    return bytes(engine), batches, wanted_products(library, network)


def _add_profile(
    path: Path, network: Any, builder: Any, config: Any, options: BuildOptions
) -> tuple[int, int, int]:
    """The optimisation profile of the one input; a fixed batch needs none."""
    if network.num_inputs != 1 or network.num_outputs < 1:
        raise BadInput(
            f"{path} has {network.num_inputs} inputs and {network.num_outputs} outputs.",
            "Build models of one input, a batch of images, and one output, the logits.",
        )
    images = network.get_input(0)
    batch, *rest = tuple(images.shape)
    if any(size < 1 for size in rest):
        raise BadInput(
            f"Input {images.name!r} of {path} has a free size besides the batch: "
            f"{tuple(images.shape)}.",
            "Export the model with a fixed image size.",
        )
    if batch > 0:
        return batch, batch, batch
    profile = builder.create_optimization_profile()
    profile.set_shape(images.name, *[(size, *rest) for size in options.batches])
    config.add_optimization_profile(profile)
    return options.batches


def _configure(library: Any, config: Any, product: Product, options: BuildOptions) -> None:
    # Layer names and types in the engine are what the proof of precision reads.
    config.profiling_verbosity = library.ProfilingVerbosity.DETAILED
    if options.workspace_bytes is not None:
        config.set_memory_pool_limit(library.MemoryPoolType.WORKSPACE, options.workspace_bytes)
    if product.ahead_of_time:
        if options.hardware_compatibility != "none":
            raise BadInput(
                "Hardware compatibility levels exist in TensorRT, not in TensorRT-RTX.",
                "Name compute capabilities instead, or none for one engine for 8.0 and later.",
            )
        flag = getattr(library.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)
        if flag is not None:
            config.set_flag(flag)  # without it no CUDA graph can be captured (release notes, 1.2)
        _set_compute_capabilities(library, config, options.compute_capabilities)
    else:
        if options.compute_capabilities:
            raise BadInput(
                "TensorRT builds for the GPU of this host, not for compute capabilities.",
                "Use `target=rtx`, or a hardware compatibility level.",
            )
        level = options.hardware_compatibility.upper().replace("-", "_")
        config.hardware_compatibility_level = getattr(library.HardwareCompatibilityLevel, level)


def _set_compute_capabilities(library: Any, config: Any, wanted: tuple[str, ...]) -> None:
    known = {
        name[2:-1] + "." + name[-1]: getattr(library.ComputeCapability, name)
        for name in dir(library.ComputeCapability)
        if name.startswith("SM")
    }
    if not wanted:
        return
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        if capability not in known:
            raise BadInput(
                f"TensorRT-RTX {library.__version__} compiles for no compute capability "
                f"{capability!r}.",
                f"Choose among {', '.join(known)}, or none: one engine for 8.0 and later.",
            )
        config.set_compute_capability(known[capability], index)


def _attach_timing_cache(config: Any, product: Product, options: BuildOptions) -> Any:
    if options.timing_cache is None or product.ahead_of_time:
        return None  # nothing is timed while it builds
    file = options.timing_cache
    try:
        content = file.read_bytes() if file.is_file() else b""
    except OSError as error:
        raise BadInput(f"Timing cache {file} cannot be read: {error}", "Check the path.") from error
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        # Of another GPU or version: begin anew.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _explained(
    path: Path, library: Any, network: Any, product: Product, messages: list[Message]
) -> MimiqError:
    """The builder's error; where it names no node, the likely one is found in the network."""
    node = ""
    if any("CHECK(is_constant())" in message.text for message in messages):
        blocked = (
            layer.name
            for layer in map(network.get_layer, range(network.num_layers))
            if layer.type == library.LayerType.DEQUANTIZE
            and layer.num_inputs > 1
            # One scale per channel has one dimension, one per block has the weight's two.
            and len(layer.get_input(1).shape) == 2
        )
        node = next(blocked, "")
    return builder_error(path, product.title, messages, node)
