"""Other forms of an exported graph, file to file, without torch."""

from __future__ import annotations

from pathlib import Path

from mimiq.export import passes
from mimiq.export.graph import load, save, save_for
from mimiq.export.passes.clean import Clean
from mimiq.export.passes.half.int4_carrier import Int4ToInt8Carrier
from mimiq.export.passes.unquantize import Unquantize


def to_fp16(
    source: str | Path, path: str | Path, *, int8_carrier: bool = True, split_scales: bool = True
) -> Path:
    """Write the half-precision form that TensorRT builds best: :func:`passes.half_precision`.

    The integers of quantised Linears are those of ``source``, and so are their scales, to half's
    precision where they are split in two (:class:`passes.half.split_scales.SplitWeightScales`).

    Args:
        source: a graph of :func:`mimiq.export.torch_onnx.export_onnx`, quantised or not.
        path: where to write.
        int8_carrier: store per-channel 4-bit weights as INT8. Twice their bytes, but no kernel
            that unpacks them before each product.
        split_scales: let quantised Linears write half; otherwise each is an island of fp32.

    Raises:
        UnsupportedModel: for a node whose half-precision form is not known.
        BadInput: when ``source`` cannot be read or ``path`` not be written.
    """
    steps = passes.half_precision(int8_carrier=int8_carrier, split_scales=split_scales)
    model = passes.run(load(source), steps)
    return save_for("TensorRT, TensorRT-RTX", model, path)


def to_float(source: str | Path, path: str | Path) -> Path:
    """Write the graph without quantisation, in fp32; see :class:`passes.unquantize.Unquantize`.

    Raises:
        UnsupportedModel, BadInput: as :func:`to_fp16`.
    """
    return save(passes.run(load(source), (Unquantize(), Clean())), path)


def to_int8_carrier(source: str | Path, path: str | Path) -> Path:
    """Write the graph with per-channel 4-bit weights stored as INT8; the same values.

    ONNX Runtime's CPU then runs layers with quantised activations in integers.

    Raises:
        UnsupportedModel, BadInput: as :func:`to_fp16`.
    """
    return save(passes.run(load(source), (Int4ToInt8Carrier(),)), path)
