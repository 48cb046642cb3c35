"""The form of a quantised graph that ONNX Runtime runs fastest on a CPU."""

from __future__ import annotations

from pathlib import Path

from mimiq.export import passes
from mimiq.export.graph import load, nodes_of, save_for
from mimiq.export.passes.integers.integer_products import PRODUCT


def to_cpu(source: str | Path, path: str | Path) -> Path | None:
    """Write the same numbers with the integer products named that ONNX Runtime's CPU has.

    A file of its own, for no other runtime takes it: activations are uint8 with zero point 128,
    which TensorRT refuses, and Linears are ``com.microsoft.MatMulIntegerToFloat`` with their bias.
    The integers that are multiplied are those of ``source``; of a weight-only network, whose
    activations have none, each token's are rounded to eight bits as it runs. See
    :func:`passes.cpu` for each step.

    Args:
        source: a Q/DQ graph of :func:`mimiq.export.torch_onnx.export_onnx`.
        path: where to write.

    Returns:
        ``path``; or None, and nothing is written, where no product has quantised activations or
        INT4 weights: ``source`` is then the fastest form itself.

    Raises:
        UnsupportedModel: for a node that lacks an input.
        BadInput: when ``source`` cannot be read or ``path`` not be written.
    """
    model = passes.run(load(source), passes.cpu())
    return save_for("ONNX Runtime on a CPU", model, path) if nodes_of(model, PRODUCT) else None
