"""A bundle's network in FP16: the engine to hold the speed of its low precision against."""

from __future__ import annotations

import tempfile
from pathlib import Path

from mimiq.errors import missing_extra
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.engines import summarize
from mimiq.export.tensorrt.proof import Proof, judge
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.tensorrt.products import Product


def build_half_twin(
    bundle: Bundle, product: Product, batches: tuple[int, int, int], plan: Path
) -> Proof:
    """Build the FP16 engine of a bundle's network, with the weights that its integers stand for.

    Args:
        batches: smallest, typical and largest batch.
        plan: where to write the engine.

    Returns:
        What it computes in which precision.

    Raises:
        EnvironmentLacks: the library that rewrites graphs (extra ``compile``) is not installed.
        MimiqError: see :func:`mimiq.export.tensorrt.build.build_engine`.
    """
    try:
        from mimiq.export.forms import to_float, to_fp16
    except ImportError as error:
        raise missing_extra("onnx-ir", "pack") from error
    with tempfile.TemporaryDirectory() as folder:
        plain = to_float(bundle.model_path, Path(folder) / "float.onnx")
        half = to_fp16(plain, Path(folder) / "half.onnx")
        built = build_engine(half, product, BuildOptions(batches=batches))
    plan.write_bytes(built.plan)
    return judge(summarize(built, product), built.wanted)
