"""Other forms of an exported graph, file to file, without torch."""

from __future__ import annotations

from pathlib import Path

from mimiq.export import passes
from mimiq.export.graph import load, save
from mimiq.export.passes.int4_carrier import Int4ToInt8Carrier


def to_fp16(source: str | Path, path: str | Path, *, int8_carrier: bool = True) -> Path:
    """Write the half-precision form that TensorRT builds best; see :class:`passes.half.ToHalf`.

    The integers and scales of quantised layers are those of ``source``.

    Args:
        source: a graph of :func:`mimiq.export.torch_onnx.export_onnx`, quantised or not.
        path: where to write.
        int8_carrier: store per-channel 4-bit weights as INT8. Twice their bytes, but no kernel
            that unpacks them before each product.

    Raises:
        UnsupportedModel: for a node whose half-precision form is not known.
        BadInput: when ``source`` cannot be read or ``path`` not be written.
    """
    return save(passes.run(load(source), passes.half_precision(int8_carrier=int8_carrier)), path)


def to_int8_carrier(source: str | Path, path: str | Path) -> Path:
    """Write the graph with per-channel 4-bit weights stored as INT8; the same values.

    ONNX Runtime's CPU then runs layers with quantised activations in integers.

    Raises:
        UnsupportedModel, BadInput: as :func:`to_fp16`.
    """
    return save(passes.run(load(source), (Int4ToInt8Carrier(),)), path)
