"""Values that activations have, grids to put them on, and what a scale is by its definition."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from mimiq.calibrate.observers import (
    Observer,
)
from mimiq.quantize.fake_quant import Grid

GRIDS = [
    Grid(-128, 127),
    Grid(-127, 127),
    Grid(0, 127),
    Grid(-1, 14),
    Grid(-8, 7),
    Grid(-2, 1),
    Grid(-5, 4, 2, 3, 3),
    Grid(0, 6, 5, 8),
]


grids = st.sampled_from(GRIDS)


fast = settings(max_examples=60, deadline=None)


few_values = hnp.arrays(
    np.float32,
    st.integers(1, 40),
    elements=st.floats(-1e4, 1e4, width=32, allow_subnormal=False),
)


@st.composite
def many_values(draw: st.DrawFn) -> np.ndarray:
    """Shapes that activations have: normal, after GELU, after softmax, with outliers."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    x = rng.standard_normal(draw(st.integers(100, 5000)))
    shape = draw(st.sampled_from(["normal", "gelu", "softmax", "outliers", "negative"]))
    if shape == "gelu":
        x = torch.nn.functional.gelu(torch.from_numpy(3 * x)).numpy()
    elif shape == "softmax":
        x = np.exp(4 * x - 12)
    elif shape == "outliers":
        x[:: len(x) // 3] *= 100
    elif shape == "negative":
        x = -np.abs(x)
    return (x * draw(st.sampled_from([1e-3, 1.0, 37.0]))).astype(np.float32)


values = st.one_of(few_values, many_values())


def demands(x: np.ndarray, grid: Grid) -> np.ndarray:
    """The smallest scale at which the grid reaches each value."""
    x = x.astype(np.float64)
    below = x / grid.integers[0] if grid.integers[0] < 0 else np.zeros_like(x)
    return np.maximum(np.maximum(x / grid.integers[-1], below), 0)


def squared_error(x: np.ndarray, scale: float, grid: Grid) -> float:
    x, levels = x.astype(np.float64), scale * np.asarray(grid.integers)
    nearest = levels[np.searchsorted((levels[1:] + levels[:-1]) / 2, x)]
    return float(np.mean((x - nearest) ** 2))


def observed(observer: Observer, *batches: np.ndarray) -> Any:
    for batch in batches:
        observer.update(torch.from_numpy(batch))
    return observer
