"""Tests in this folder need an NVIDIA GPU, its driver and TensorRT-RTX or TensorRT."""

from __future__ import annotations

import pytest

from mimiq.runtime.tensorrt.products import PRODUCTS, Product


@pytest.fixture(params=PRODUCTS, ids=lambda product: product.name)
def product(request: pytest.FixtureRequest) -> Product:
    """Each product that can run here; the others are skipped with their reason."""
    chosen: Product = request.param
    reason = chosen.why_not_run()
    if reason is not None:
        pytest.skip(reason)
    return chosen
