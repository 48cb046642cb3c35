"""Engines in bundles, as ``mimiq build`` and ``mimiq-compile`` ask for and show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mimiq.cli.output import show

if TYPE_CHECKING:
    from mimiq.export.tensorrt.engines import BundleEngine


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
