"""Engines for bundles: built, proved, and put beside the graph they come from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import tempfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from mimiq.errors import (
    BadInput,
    EnvironmentLacks,
    UnsupportedTarget,
    missing_extra,
    pip_install,
)
from mimiq.export.tensorrt.build import BuildOptions, BuiltEngine, build_engine
from mimiq.export.tensorrt.inspector import read_inspector
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import Proof, judge, require_precision
from mimiq.export.tensorrt.summary import PlanSummary
from mimiq.runtime.bundle import MODEL, Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.files.json_objects import read_json
from mimiq.runtime.tensorrt.cuda import Gpu, gpu_or_reason
from mimiq.runtime.tensorrt.products import RTX, TRT, Product, product_named
from mimiq.runtime.tensorrt.record import (
    BUILD_AGAIN,
    ENGINES,
    FP8_MODEL,
    HALF_MODEL,
    EngineRecord,
)

FP8_CAPABILITIES = ("8.9", "12.0")  # TensorRT-RTX: what FP8 is compiled for unless named
_OLDEST = "8.0"  # TensorRT-RTX: what an engine that names no GPU begins with


@dataclass(frozen=True)
class BundleEngine:
    """An engine that was just put in a bundle.

    Attributes:
        bundle: as it now is.
        engine_name: its name in the bundle, ``engines/….plan``.
        record: what stands beside it.
        proof: its precision, product by product.
        seconds: the build's duration.
        warnings: distinct warnings of parser and builder.
    """

    bundle: Bundle
    engine_name: str
    record: EngineRecord
    proof: Proof
    seconds: float
    warnings: tuple[str, ...]


def choose_product(target: str) -> Product | None:
    """``rtx``, ``trt`` or ``auto``: what this host can build; None where ``auto`` finds nothing.

    ``auto`` prefers TensorRT on a host whose GPU it can use, since it times kernels there, and
    TensorRT-RTX, which builds anywhere, otherwise.

    Raises:
        BadInput: another target.
    """
    if target != "auto":
        return product_named(target)
    return next((product for product in (TRT, RTX) if product.can_build_here()), None)


def build_for_bundle(
    bundle: Bundle,
    target: str | Product = "auto",
    options: BuildOptions | None = None,
    source: str | None = None,
) -> BundleEngine:
    """Build an engine from a bundle's graph, prove its precision, and add it to the bundle.

    The graph is first held against the rules of the target, where the library that reads graphs
    (onnx-ir) is installed; a host without it relies on the builder's own words and on the proof.

    Written are ``engines/<name>.plan`` and ``engines/<name>.json``; an engine of the same name is
    replaced. Nothing is written when the build or the proof fails.

    Args:
        bundle: with ``model.fp16.onnx``, which is preferred, or ``model.onnx``.
        target: ``rtx``, ``trt``, ``auto``, or a product.
        options: None for the defaults.
        source: the graph to build, such as ``FP8_MODEL``; None for the preferred one.

    Raises:
        EnvironmentLacks: the product, or the GPU that it needs, is absent.
        UnsupportedTarget: the graph breaks a rule of the target, or low precision was lost.
        BuildFailed, BadInput: see :func:`~mimiq.export.tensorrt.build.build_engine`.
    """
    options = options or BuildOptions()
    product = target if isinstance(target, Product) else choose_product(target)
    if product is None:
        raise EnvironmentLacks(
            "Neither TensorRT-RTX nor TensorRT can build on this host.",
            f"Install the former with: {pip_install('rtx')}. It needs no GPU to build.",
        )
    if source is None:
        source = HALF_MODEL if bundle.has(HALF_MODEL) else MODEL
    gpu = gpu_or_reason()
    slow = _check_rules(bundle.file(source), product, options, gpu)
    built = build_engine(bundle.file(source), product, options)
    summary = summarize(built, product)
    proof = judge(summary, built.wanted)
    require_precision(proof, allow_fallback=options.allow_fallback)
    record = _record(bundle, source, product, options, built, summary, gpu)
    name = f"{ENGINES}{_name(product, source, options, gpu)}"
    with tempfile.TemporaryDirectory() as folder:
        plan, description = Path(folder) / "engine.plan", Path(folder) / "engine.json"
        plan.write_bytes(built.plan)
        text = {**record.to_json(), "seconds": round(built.seconds, 3), "proof": proof.to_json()}
        description.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
        files = {f"{name}.plan": plan, f"{name}.json": description}
        bundle = add_files(bundle, files)
    warnings = (*slow, *built.warnings)
    return BundleEngine(bundle, f"{name}.plan", record, proof, built.seconds, warnings)


def add_fp8_graph(bundle: Bundle) -> Bundle:
    """The bundle with ``model.fp8.onnx``: FP8 (E4M3) in the place of INT8, scales adapted.

    Its numbers are those of another grid than the one that the network was tuned on.

    Raises:
        UnsupportedTarget: the bundle is not INT8 in weights and activations.
        EnvironmentLacks: the library that rewrites graphs is not installed.
    """
    if bundle.has(FP8_MODEL):
        return bundle
    if not bundle.precision.is_int8:
        raise UnsupportedTarget(
            f"FP8 takes the place of INT8, and this bundle is {bundle.precision_label}.",
            "Compile with `int8=True` for FP8 engines.",
        )
    if not _reads_graphs():
        raise missing_extra("onnx-ir", "pack")
    from mimiq.export.graph import reading, save
    from mimiq.export.tensorrt.fp8 import ToFp8

    with reading(bundle.file(HALF_MODEL if bundle.has(HALF_MODEL) else MODEL)) as model:
        ToFp8()(model)
    with tempfile.TemporaryDirectory() as folder:
        return add_files(bundle, {FP8_MODEL: save(model, Path(folder) / FP8_MODEL)})


def _check_rules(
    graph: Path, product: Product, options: BuildOptions, gpu: Gpu | str
) -> tuple[str, ...]:
    """Refuse a graph that breaks a rule of the target; returns what is merely slow, in words."""
    if not product.is_installed or not _reads_graphs():
        return ()
    from mimiq.export.rules import require

    capabilities = options.compute_capabilities or (_OLDEST,)
    if not product.ahead_of_time:
        capabilities = (gpu.compute_capability,) if isinstance(gpu, Gpu) else ()
    found = require(
        graph,
        product.name,
        compute_capabilities=capabilities,
        allow_fallback=options.allow_fallback,
    )
    counts = Counter(finding.problem for finding in found)
    return tuple(f"{problem} ({count} ×)" for problem, count in counts.items())


def _reads_graphs() -> bool:
    return importlib.util.find_spec("onnx_ir") is not None


def summarize(built: BuiltEngine, product: Product) -> PlanSummary:
    """What an engine does: from its text, and where that says nothing, from its inspector."""
    summary = read_plan(built.plan)
    if summary.source == "unreadable" and product.can_run_here():
        text = inspect_engine(built.plan, product)
        summary = read_inspector(text, len(built.plan), built.wanted)
    return summary


def inspect_engine(plan: bytes, product: Product) -> str:
    """The engine inspector's JSON; needs a GPU.

    Raises:
        EnvironmentLacks, BadInput: see :class:`mimiq.runtime.tensorrt.session.TensorRTSession`.
    """
    from mimiq.runtime.tensorrt.session import TensorRTSession

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "engine.plan"
        path.write_bytes(plan)
        with TensorRTSession(path, product.load(), product, runtime_cache=False) as session:
            return session.inspect()


def recorded_proofs(bundle: Bundle) -> dict[str, Proof]:
    """The proof of each engine of a bundle, as recorded when it was built, by engine name.

    Raises:
        BadInput: a record is broken.
    """
    proofs = {}
    for name in sorted(bundle.manifest.files):
        if not (name.startswith(ENGINES) and name.endswith(".json")):
            continue
        try:
            data = read_json(bundle.file(name))
            proofs[name.removesuffix(".json") + ".plan"] = Proof.from_json(data["proof"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(
                f"{bundle.path / name} holds no proof of precision: {error!r}.",
                BUILD_AGAIN,
            ) from error
    return proofs


def _record(
    bundle: Bundle,
    source: str,
    product: Product,
    options: BuildOptions,
    built: BuiltEngine,
    summary: PlanSummary,
    gpu: Gpu | str,
) -> EngineRecord:
    known = gpu if isinstance(gpu, Gpu) and not product.ahead_of_time else None
    targets = options.compute_capabilities or tuple(_dotted(t) for t in summary.targets)
    return EngineRecord(
        product=product.name,
        version=product.version,
        targets=targets if product.ahead_of_time else (),
        forward_compatible=product.ahead_of_time and not options.compute_capabilities,
        gpu=known.name if known else None,
        gpu_compute_capability=known.compute_capability if known else None,
        hardware_compatibility=options.hardware_compatibility,
        batches=built.batches,
        allow_fallback=options.allow_fallback,
        source=source,
        source_sha256=bundle.manifest.files[source].sha256,
        plan_sha256=hashlib.sha256(built.plan).hexdigest(),
        plan_bytes=len(built.plan),
    )


def _name(product: Product, source: str, options: BuildOptions, gpu: Gpu | str) -> str:
    """``rtx``, ``rtx-fp8-sm89``, ``rtx-sm86-sm89``, ``trt-nvidia-l4``."""
    parts = [product.name, *(["fp8"] if source == FP8_MODEL else [])]
    parts += [f"sm{capability.replace('.', '')}" for capability in options.compute_capabilities]
    if not product.ahead_of_time:
        level = options.hardware_compatibility
        name = gpu.name if isinstance(gpu, Gpu) else "gpu"
        parts.append(level if level == "ampere-plus" else name)
    return re.sub(r"[^a-z0-9]+", "-", "-".join(parts).lower()).strip("-")


def _dotted(target: str) -> str:
    """``sm80`` → ``8.0``, ``sm120`` → ``12.0``."""
    digits = target.removeprefix("sm")
    return f"{digits[:-1]}.{digits[-1:]}"
