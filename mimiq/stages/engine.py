"""The engine of a compilation: built, proved, and put in the bundle with what it fell back to."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mimiq.errors import BuildFailed, MimiqError, UnsupportedTarget
from mimiq.progress import Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.tensorrt.record import FP8_MODEL
from mimiq.spec import EngineSpec

if TYPE_CHECKING:
    from mimiq.export.tensorrt.build import BuildOptions
    from mimiq.export.tensorrt.engines import BundleEngine
    from mimiq.runtime.tensorrt.products import Product

FP8_NOTE = (
    "{name} computes in FP8 (E4M3): its accuracy is not that of the INT8 graph; measure it with "
    "mimiq eval."
)


def add_engine(bundle: Bundle, wanted: EngineSpec, progress: Progress) -> BundleEngine | None:
    """The engine that was asked for, or that this host can build.

    Returns:
        The engine and the bundle that now holds it; None where ``auto`` finds nothing to build.

    Raises:
        UnsupportedTarget, BuildFailed: saying that the bundle itself is complete.
        EnvironmentLacks: the target was named and cannot be built here.
    """
    from mimiq.export.tensorrt.build import BuildOptions
    from mimiq.export.tensorrt.engines import choose_product

    product = choose_product(wanted.target)
    if product is None:
        return None
    options = BuildOptions(allow_fallback=wanted.allow_fallback)
    try:
        with progress.stage("engine") as stage:
            stage.update(text=product.title)
            built = build(bundle, product, options, fp8=wanted.fp8)
    except (UnsupportedTarget, BuildFailed) as error:
        raise _without_engine(error, bundle, product.name) from error
    return replace(built, bundle=with_fallbacks(built.bundle, built))


def build(
    bundle: Bundle, target: str | Product, options: BuildOptions, *, fp8: bool = False
) -> BundleEngine:
    """The bundle with a new engine; with ``fp8`` in E4M3, from a graph that is added for it.

    Raises:
        UnsupportedTarget, BuildFailed, BadInput, EnvironmentLacks: see
            :func:`~mimiq.export.tensorrt.engines.build_for_bundle`.
    """
    from mimiq.export.tensorrt import engines

    if not fp8:
        return engines.build_for_bundle(bundle, target, options)
    product = engines.choose_product(target) if isinstance(target, str) else target
    if product is not None and product.ahead_of_time and not options.compute_capabilities:
        options = replace(options, compute_capabilities=engines.FP8_CAPABILITIES)
    bundle = engines.add_fp8_graph(bundle)
    built = engines.build_for_bundle(bundle, product or target, options, FP8_MODEL)
    return replace(built, warnings=(FP8_NOTE.format(name=built.engine_name), *built.warnings))


def with_fallbacks(bundle: Bundle, built: BundleEngine) -> Bundle:
    """The bundle, whose report says what the engine computes otherwise than asked for."""
    fallbacks = [f"{built.engine_name}: {fallback}" for fallback in built.proof.fallbacks]
    notes = [FP8_NOTE.format(name=built.engine_name)] if built.record.is_fp8 else []
    report = bundle.report
    if not (fallbacks or notes) or report is None:
        return bundle
    added = replace(
        report, fallbacks=(*report.fallbacks, *fallbacks), notes=(*report.notes, *notes)
    )
    return add_files(bundle, report=added)


def _without_engine(error: MimiqError, bundle: Bundle, target: str) -> MimiqError:
    return type(error)(
        error.problem,
        f"{error.next_step}\n  The bundle {bundle.path} is complete but for this engine: "
        f"mimiq build {bundle.path} with `target={target}` makes it without compiling again.",
    )
