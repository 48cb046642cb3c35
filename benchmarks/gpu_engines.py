"""Engines of benchmarks/gpu.py: whether they run on this GPU, built, proved and opened."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mimiq.errors import MimiqError
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.engines import summarize
from mimiq.export.tensorrt.proof import Proof, judge
from mimiq.runtime.tensorrt.products import Product
from mimiq.runtime.tensorrt.session import TensorRTSession
from mimiq.runtime.tensorrt.timing import device_runner

CAPABILITIES = ("8.0", "8.6", "8.9", "12.0")


def attempts(product: Product, graph: Path, folder: Path) -> dict[str, Any]:
    """Whether the product runs an engine here, in its own words if not."""
    entry: dict[str, Any] = {"version": None, "refusal": None, "attempts": {}}
    try:
        entry["version"] = product.version
    except MimiqError as error:
        entry["refusal"] = entry["attempts"]["load"] = str(error)
        return entry
    wanted: list[tuple[str, ...]] = [()]
    if product.name == "rtx":
        wanted += [(capability,) for capability in CAPABILITIES]
    for capabilities in wanted:
        label = f"compiled for {', '.join(capabilities) or '8.0 and later'}"
        options = BuildOptions(batches=(1, 1, 2), compute_capabilities=capabilities)
        try:
            with open_engine(product, graph, options, folder / "attempt.plan") as session:
                device_runner(session)(1, 3)
            entry["attempts"][label] = "runs"
        except MimiqError as error:
            entry["attempts"][label] = str(error)
        if entry["attempts"].get("compiled for 8.0 and later") == "runs":
            break
    first = next(iter(entry["attempts"].values()))
    entry["refusal"] = None if first == "runs" else first
    return entry


def open_engine(
    product: Product, graph: Path, options: BuildOptions, plan: Path
) -> TensorRTSession:
    plan.write_bytes(build_engine(graph, product, options).plan)
    return TensorRTSession(plan, product.load(), product, runtime_cache=False)


def prove_engine(
    product: Product, graph: Path, options: BuildOptions, folder: Path
) -> tuple[dict[str, Any], Path | None, Proof | None]:
    """Build and prove one engine: what the table tells of it, its file and its proof."""
    try:
        built = build_engine(graph, product, options)
    except MimiqError as error:
        return {"error": str(error)}, None, None
    summary = summarize(built, product)
    proof = judge(summary, built.wanted)
    plan = folder / f"{graph.stem}-{product.name}.plan"
    plan.write_bytes(built.plan)
    told = {
        "bytes": len(built.plan),
        "seconds": built.seconds,
        "linears": dict(summary.linears()),
        "attentions": dict(summary.fused_attentions()),
        "kernels": summary.kernels,
        "reformats": summary.reformats,
        "unpacks": summary.unpacks,
        "fallbacks": len(proof.fallbacks),
        "overflow": len(proof.overflow),
    }
    return told, plan, proof
