"""The form of a quantised graph that OpenVINO runs fastest."""

from __future__ import annotations

from pathlib import Path

from mimiq.export import passes
from mimiq.export.graph import load, save_for
from mimiq.export.patterns.linears import find_linears


def to_openvino(source: str | Path, path: str | Path) -> Path | None:
    """Write the same numbers in standard Q/DQ, arranged so that OpenVINO fuses more of them.

    The integers that are multiplied are those of ``source``; see :func:`passes.openvino` for each
    step. Other runtimes would take the file, and gain nothing by it.

    Args:
        source: a Q/DQ graph of :func:`mimiq.export.torch_onnx.export_onnx`.
        path: where to write.

    Returns:
        ``path``; or None, and nothing is written, where no Linear has quantised activations:
        ``source`` is then the fastest form itself.

    Raises:
        UnsupportedModel: for a node that lacks an input.
        BadInput: when ``source`` cannot be read or ``path`` not be written.
    """
    model = load(source)
    if not any(linear.activation is not None for linear in find_linears(model)):
        return None
    return save_for("OpenVINO", passes.run(model, passes.openvino()), path)
