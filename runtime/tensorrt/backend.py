"""TensorRT and TensorRT-RTX as backends: a bundle's engine, or one built from a graph."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.runtime.backend import Backend, Lack
from mimiq.runtime.tensorrt.products import RTX, TRT, Product

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.tensorrt.session import TensorRTSession

_OPTIONS = frozenset({"contexts", "cuda_graphs", "allocator", "runtime_cache", "rebuild", "cuda"})


@dataclass(frozen=True)
class TensorRT:
    """See :class:`mimiq.runtime.backend.Backend`.

    Attributes:
        product: which of the two.
        fp8: the variant that computes in FP8, from a graph of its own.
    """

    product: Product
    fp8: bool = False
    options: frozenset[str] = _OPTIONS
    reads_graphs: bool = False

    @property
    def name(self) -> str:
        return self.product.name

    @property
    def title(self) -> str:
        return f"{self.product.title} engines"

    @property
    def extra(self) -> str | None:
        return self.product.name

    @property
    def label(self) -> str:
        return f"{self.product.label}-fp8" if self.fp8 else self.product.label

    def why_not(self) -> Lack | None:
        return self.product.why_not_run()

    def suits(self, bundle: Bundle) -> bool:
        from mimiq.runtime.tensorrt.selection import can_run

        return can_run(bundle, self.product)

    def graph_of(self, bundle: Bundle) -> str:
        from mimiq.runtime.bundle import MODEL
        from mimiq.runtime.tensorrt.record import FP8_MODEL, HALF_MODEL

        half = FP8_MODEL if self.fp8 else HALF_MODEL
        return half if bundle.has(half) else MODEL

    def answering(self, label: str) -> Backend | None:
        variants = (self, replace(self, fp8=True))
        return next((variant for variant in variants if variant.label == label), None)

    def open(self, bundle: Bundle, **options: Any) -> TensorRTSession:
        from mimiq.runtime.tensorrt.selection import open_tensorrt

        return open_tensorrt(bundle, self.product, **options)

    def open_graph(self, path: Path, **options: Any) -> TensorRTSession:
        """An engine for single images, built now; that takes seconds to minutes."""
        from mimiq.runtime.tensorrt.builder import engine_builder
        from mimiq.runtime.tensorrt.session import TensorRTSession

        built = engine_builder().of_graph(path, self.product)
        with tempfile.TemporaryDirectory() as folder:
            plan = Path(folder) / f"{path.stem}.plan"
            plan.write_bytes(built)
            return TensorRTSession(
                plan, self.product.load(), self.product, runtime_cache=False, **options
            )


RTX_ENGINES = TensorRT(RTX)
TRT_ENGINES = TensorRT(TRT)
