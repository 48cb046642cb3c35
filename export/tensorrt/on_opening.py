"""Engines that are built when a graph, or a bundle without one that fits, is opened."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.engines import build_for_bundle
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.tensorrt.builder import EngineBuilder
from mimiq.runtime.tensorrt.cuda import Gpu
from mimiq.runtime.tensorrt.products import Product, product_named
from mimiq.runtime.tensorrt.record import EngineRecord


class _OnOpening:
    """See :class:`mimiq.runtime.tensorrt.builder.EngineBuilder`, which names it."""

    def of_graph(self, graph: Path, product: Product) -> bytes:
        return build_engine(graph, product, BuildOptions(batches=(1, 1, 1))).plan

    def of_bundle(
        self, bundle: Bundle, product: Product, like: EngineRecord | None, gpu: Gpu
    ) -> tuple[str, EngineRecord]:
        options = options_of(like, gpu) if like else None
        built = build_for_bundle(bundle, product, options, like.source if like else None)
        return built.engine_name, built.record


BUILDER: EngineBuilder = _OnOpening()


def options_of(record: EngineRecord, gpu: Gpu | None = None) -> BuildOptions:
    """The options that build an engine like a recorded one, for this host's GPU."""
    options = BuildOptions(batches=record.batches, allow_fallback=record.allow_fallback)
    if not product_named(record.product).ahead_of_time:
        return replace(options, hardware_compatibility=_level(record.hardware_compatibility))
    capabilities = () if record.forward_compatible else record.targets
    if gpu is not None and capabilities and gpu.compute_capability not in capabilities:
        # One engine for 8.0 and later, or where that is no choice, for this GPU.
        capabilities = (gpu.compute_capability,) if record.is_fp8 else ()
    return replace(options, compute_capabilities=capabilities)


def _level(text: str) -> Any:
    return text if text in ("ampere-plus", "same-compute-capability") else "none"
