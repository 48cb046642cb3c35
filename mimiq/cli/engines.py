"""Engines in bundles, as ``mimiq build`` and ``mimiq-compile`` ask for and show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mimiq.cli import choices
from mimiq.cli.output import show
from mimiq.errors import BadInput, missing_extra

if TYPE_CHECKING:
    from mimiq.export.tensorrt.engines import BundleEngine
    from mimiq.spec import EngineSpec


def engine_spec(choice: choices.EngineChoice) -> EngineSpec | None:
    """The engine that was asked for; None where the graph is enough."""
    from mimiq.spec import EngineSpec

    if choice.target == choices.GRAPH:
        return None
    return EngineSpec(choice.target, choice.allow_fallback, choice.fp8)


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
