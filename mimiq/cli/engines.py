"""Engines in bundles, as ``mimiq build`` and ``mimiq-compile`` make and show them."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from mimiq.cli import choices
from mimiq.cli.output import show, shown
from mimiq.errors import BadInput, BuildFailed, MimiqError, UnsupportedTarget, missing_extra

if TYPE_CHECKING:
    from mimiq.export.tensorrt.build import BuildOptions
    from mimiq.export.tensorrt.engines import BundleEngine
    from mimiq.progress import Progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.tensorrt.library import Product

FP8_NOTE = (
    "{name} computes in FP8 (E4M3): its accuracy is not that of the INT8 graph; measure it with "
    "mimiq eval."
)


def add_engine(
    bundle: Bundle, choice: choices.EngineChoice, progress: Progress
) -> BundleEngine | None:
    """The compiler's last stage: the engine that was asked for, or that this host can build.

    Returns:
        The engine and the bundle that now holds it; None where there is nothing to build.

    Raises:
        UnsupportedTarget, BuildFailed: saying that the bundle itself is complete.
        EnvironmentLacks: the target was named and cannot be built here.
    """
    from mimiq.export.tensorrt.build import BuildOptions
    from mimiq.export.tensorrt.engines import choose_product

    if choice.target == choices.GRAPH:
        return None
    product = choose_product(choice.target)
    if product is None:
        return None
    wanted = BuildOptions(allow_fallback=choice.allow_fallback)
    try:
        with progress.stage("engine") as stage:
            stage.update(text=product.title)
            return built_engine(bundle, product, wanted, choice.fp8)
    except (UnsupportedTarget, BuildFailed) as error:
        raise _without_engine(error, bundle, product.name) from error


def require_fp8(engine: choices.EngineChoice, precision: choices.PrecisionChoice) -> None:
    """Refuse ``--fp8`` before the work where no FP8 engine can come of it.

    Raises:
        BadInput: with another precision than INT8, or for ONNX Runtime.
        EnvironmentLacks: this host builds no engine.
    """
    if not engine.fp8:
        return
    if precision.int4 or precision.weight_only or precision.bits not in (None, "w8a8"):
        raise BadInput(
            "--fp8 takes the place of INT8, and another precision was given.",
            "Leave out --int4, --weight-only and --bits, or --fp8.",
        )
    if engine.target == choices.GRAPH:
        raise BadInput("--fp8 is for engines; --target ort builds none.", "Use --target rtx.")
    from mimiq.export.tensorrt.engines import choose_product

    if choose_product(engine.target) is None:
        raise missing_extra("TensorRT-RTX", "rtx")


def built_engine(
    bundle: Bundle, target: str | Product, options: BuildOptions, fp8: bool
) -> BundleEngine:
    """The bundle with a new engine; with ``fp8`` in E4M3, from a graph that is added for it.

    Raises:
        UnsupportedTarget, BuildFailed, BadInput, EnvironmentLacks: see
            :func:`~mimiq.export.tensorrt.engines.build_for_bundle`.
    """
    from mimiq.export.tensorrt import engines
    from mimiq.runtime.tensorrt.record import FP8_MODEL

    if not fp8:
        return engines.build_for_bundle(bundle, target, options)
    product = engines.choose_product(target) if isinstance(target, str) else target
    if product is not None and product.ahead_of_time and not options.compute_capabilities:
        options = replace(options, compute_capabilities=engines.FP8_CAPABILITIES)
    bundle = engines.add_fp8_graph(bundle)
    built = engines.build_for_bundle(bundle, product or target, options, FP8_MODEL)
    return replace(built, warnings=(FP8_NOTE.format(name=built.engine_name), *built.warnings))


def engine_json(built: BundleEngine) -> dict[str, Any]:
    """The engine and its proof, for machines."""
    return {
        "bundle": str(built.bundle.path),
        "engine": built.engine_name,
        "record": built.record.to_json(),
        "proof": built.proof.to_json(),
        "seconds": built.seconds,
        "warnings": list(built.warnings),
    }


def show_engine(built: BundleEngine) -> None:
    """The proof of precision and the builder's warnings."""
    from mimiq.export.tensorrt.proof import proof_table

    title = f"{built.engine_name}, built in {built.seconds:.1f} s"
    show(proof_table(built.proof, title), *(f"• {warning}" for warning in built.warnings))


def _without_engine(error: MimiqError, bundle: Bundle, target: str) -> MimiqError:
    return type(error)(
        error.problem,
        f"{error.next_step}\n  The bundle {shown(bundle.path)} is complete but for this engine: "
        f"mimiq build {shown(bundle.path)} --target {target} makes it without compiling again.",
    )
