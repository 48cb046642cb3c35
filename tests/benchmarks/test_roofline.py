"""The arithmetic of benchmarks/gpu.py's roofline; it needs no GPU."""

from __future__ import annotations

import pytest
from gpu_graphs import VARIANTS, Prepared
from gpu_report import operations, roofline_ms

CEILINGS = {"copy": 3e12, "half": 800e12, "int8": 1600e12}


def deit(width: int, heads: int) -> Prepared:
    return Prepared("deit", True, {}, {}, width, 12, heads, 16, 224, 1000)


@pytest.mark.parametrize(
    ("width", "heads", "gigamacs"), [(192, 3, 1.26), (384, 6, 4.6), (768, 12, 17.58)]
)
def test_operations(width: int, heads: int, gigamacs: float) -> None:
    """As published for DeiT-T, S and B (multiply-adds; fvcore counts 1.26, 4.61 and 17.58 G)."""
    assert operations(deit(width, heads)) / 2e9 == pytest.approx(gigamacs, rel=0.01)


def test_bounds() -> None:
    base = deit(768, 12)
    for variant in VARIANTS:
        times = [roofline_ms(base, variant, batch, CEILINGS) or 0 for batch in (1, 8, 128)]
        assert 0 < times[0] < times[1] < times[2]
    # At batch 1 the bytes decide, most of them the weights'.
    one = {variant: roofline_ms(base, variant, 1, CEILINGS) or 0 for variant in VARIANTS}
    assert one["w4"] < 0.6 * one["fp16"]
    assert one["int8"] < 0.6 * one["fp16"]
    assert one["int8"] < one["int8-wide"] < one["fp16"]
    # 85.8 million weights of two bytes, once over the bus, are a floor.
    assert one["fp16"] > 1000 * 2 * 85.8e6 / 3e12
    # Operations alone are a floor as well.
    large = roofline_ms(base, "fp16", 128, CEILINGS) or 0
    assert large > 1000 * 128 * operations(base) / 800e12
    assert roofline_ms(base, "int8", 1, {"copy": 3e12}) is None
