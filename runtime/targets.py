"""What is built of a graph, by name."""

from __future__ import annotations

from mimiq.runtime.tensorrt.products import PRODUCTS

GRAPH = "ort"
"""As a target: the graph as it is, and no engine."""
TARGETS = ("auto", *(product.name for product in PRODUCTS), GRAPH)
