"""A network as the graph of one target, checked."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from mimiq.export.forms import to_fp16
from mimiq.export.rules import require
from mimiq.export.rules.findings import Target
from mimiq.export.torch_onnx import export_onnx
from mimiq.files import copy_whole

if TYPE_CHECKING:
    from mimiq.models import LoadedModel
    from mimiq.quantize.insert import QuantizedModel


def export(
    network: QuantizedModel | LoadedModel, path: str | Path, *, target: Target = "ort"
) -> Path:
    """Write a network as ONNX, quantised or in full precision, and check it for a target.

    Args:
        network: what ``mimiq.quantize`` gave, distilled or not, or a loaded network.
        path: the file; one that is there is replaced.
        target: ``ort`` (ONNX Runtime), or ``rtx`` or ``trt`` for the half-precision form.

    Returns:
        The file. Input ``images``: float32 (batch, channels, height, width), normalised; output
        ``logits`` or ``embedding``: float32 (batch, width).

    Raises:
        UnsupportedModel: the network holds something that has no form in the graph.
        UnsupportedTarget: the target would refuse a node, or run it in another precision.
        BadInput: the folder cannot be written to, or the target is unknown.
    """
    from mimiq.quantize.insert import QuantizedModel

    model = network.model if isinstance(network, QuantizedModel) else network
    path = Path(path)
    with tempfile.TemporaryDirectory() as scratch:
        graph = Path(scratch) / "model.onnx"
        shape = model.preprocessing.input_shape
        graph = export_onnx(network.module, shape, graph, output=model.output)
        if target != "ort":
            graph = to_fp16(graph, Path(scratch) / "half.onnx")
        require(graph, target)
        copy_whole(graph, path)
    return path
