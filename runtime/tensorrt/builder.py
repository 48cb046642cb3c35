"""Who builds the engines that are missing when something is opened.

Building reads graphs and judges precision, which is a matter of :mod:`mimiq.export`, above the
runtime. What runs engines knows of it only what is promised here, and where it is found.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.tensorrt.cuda import Gpu
    from mimiq.runtime.tensorrt.products import Product
    from mimiq.runtime.tensorrt.record import EngineRecord

# Written as an entry point is; imported when an engine must be built, never to run one.
BUILDER = "mimiq.export.tensorrt.on_opening:BUILDER"


class EngineBuilder(Protocol):
    """Builds engines on this host."""

    def of_graph(self, graph: Path, product: Product) -> bytes:
        """An engine for single images.

        Raises:
            MimiqError: it cannot be built here.
        """

    def of_bundle(
        self, bundle: Bundle, product: Product, like: EngineRecord | None, gpu: Gpu
    ) -> tuple[str, EngineRecord]:
        """An engine for this host, put in the bundle; its name there, and its record.

        Args:
            bundle: whose graph it is built from.
            product: which of the two libraries builds it.
            like: the record of one that fits another host, whose options are kept; None for the
                defaults.
            gpu: what it will run on.

        Raises:
            MimiqError: it cannot be built here, or loses its precision.
        """


def engine_builder() -> EngineBuilder:
    """What builds engines, imported now."""
    found: EngineBuilder = pkgutil.resolve_name(BUILDER)
    return found
