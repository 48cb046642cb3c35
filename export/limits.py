"""The ends of numbers, and of what operators compute, that passes and rules reckon with."""

from __future__ import annotations

import numpy as np

HALF_MAX = float(np.finfo(np.float16).max)  # 65504
HALF_SMALLEST_NORMAL = float(np.finfo(np.float16).smallest_normal)
GELU_MIN = -0.17  # GELU's minimum is -0.16997
