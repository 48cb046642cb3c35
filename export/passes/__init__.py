"""The graph rewrites, one a file, and the order they run in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import onnx_ir as ir

from mimiq.export.passes.clean import Clean
from mimiq.export.passes.half.conv_weights import DequantizeConvWeights
from mimiq.export.passes.half.int4_carrier import Int4ToInt8Carrier
from mimiq.export.passes.half.split_scales import SplitWeightScales
from mimiq.export.passes.half.to_half import ToHalf
from mimiq.export.passes.integers.dynamic_products import DynamicProducts
from mimiq.export.passes.integers.early_pairs import QuantizeBeforeMoves
from mimiq.export.passes.integers.early_quantize import QuantizeEarly
from mimiq.export.passes.integers.int4_cast import CastInt4
from mimiq.export.passes.integers.integer_offset import FoldOffsets
from mimiq.export.passes.integers.integer_products import IntegerProducts
from mimiq.export.passes.integers.qkv_split import SplitJoinedProjections
from mimiq.export.passes.integers.unsigned_activations import UnsignedActivations
from mimiq.export.passes.integers.zero_points import ExplicitZeroPoints
from mimiq.export.passes.qdq.activations import LowerActivations
from mimiq.export.passes.qdq.gemm import GemmToMatMul
from mimiq.export.passes.qdq.key_transpose import TransposeBeforeQuantize
from mimiq.export.passes.qdq.metadata import SetMetadata
from mimiq.export.passes.qdq.names import NameAfterModules
from mimiq.export.passes.qdq.transpose import FoldWeightTransposes
from mimiq.export.passes.qdq.weights import LowerWeights


def lowering(metadata: Mapping[str, str]) -> tuple[ir.passes.InPlacePass, ...]:
    """From what torch's exporter writes to the graph that is shipped."""
    return (
        GemmToMatMul(),
        FoldWeightTransposes(),
        TransposeBeforeQuantize(),
        LowerWeights(),
        LowerActivations(),
        Clean(),
        NameAfterModules(),
        SetMetadata(metadata),
    )


def half_precision(
    *, int8_carrier: bool = True, split_scales: bool = True
) -> tuple[ir.passes.InPlacePass, ...]:
    """From the shipped graph to what TensorRT builds fastest.

    Args:
        int8_carrier: store per-channel 4-bit weights as INT8, see :class:`Int4ToInt8Carrier`.
        split_scales: let quantised Linears write half, see :class:`SplitWeightScales`.
    """
    carrier = (Int4ToInt8Carrier(),) if int8_carrier else ()
    split = (SplitWeightScales(),) if split_scales else ()
    return (*carrier, DequantizeConvWeights(), ToHalf(), *split, Clean())


def cpu() -> tuple[ir.passes.InPlacePass, ...]:
    """From the shipped graph to what ONNX Runtime runs fastest on a CPU."""
    return (
        SplitJoinedProjections(),
        Clean(),
        UnsignedActivations(),
        QuantizeEarly(),
        IntegerProducts(),
        FoldOffsets(),
        DynamicProducts(),
        ExplicitZeroPoints(),
        Clean(),
    )


def openvino() -> tuple[ir.passes.InPlacePass, ...]:
    """From the shipped graph to what OpenVINO runs fastest."""
    return (SplitJoinedProjections(), Clean(), QuantizeBeforeMoves(), CastInt4(), Clean())


def run(model: ir.Model, passes: Iterable[ir.passes.InPlacePass]) -> ir.Model:
    """Run passes in order; errors come through as they are raised."""
    for step in passes:
        step(model)
    return model
