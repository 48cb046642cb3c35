"""Networks with simulated quantisation, made by plain min–max on a few images."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import onnxruntime
import torch
from torch import nn

from mimiq.config.precision import (
    FP32,
    LayerPrecision,
    Precision,
    from_bits,
    int4,
    int8,
    weight_only,
)
from mimiq.models import ExplicitAttention, quantizable_layers
from mimiq.models.families.vit import ViTFamily
from mimiq.quantize.fake_quant import Grid, Quantizer, weight_axis
from mimiq.quantize.layers import QuantConv2d, QuantLinear, freeze, without_columns

DEIT_T = Path(__file__).parents[3] / "shared" / "weights" / "deit_tiny_patch16_224.safetensors"

PRECISIONS = {
    "fp32": FP32,
    "w8a8": int8(),
    "w4a8": int4(),
    "w4a16-b32": weight_only(4, 32),
    "w4a16": from_bits(4, None),
    "w4a4": from_bits(4, 4),
}
METADATA = {"model": "digits", "precision": "see the name"}


@dataclass(frozen=True)
class Exported:
    """A simulated network and its graph."""

    module: nn.Module
    path: Path
    images: torch.Tensor
    precision: Precision


class _Range(nn.Module):
    """Stands where a quantiser will be, and remembers the largest magnitude but in some columns."""

    def __init__(self, outliers: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.largest = 1e-3
        self.outliers = outliers

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = without_columns(x.flatten(0, -2), self.outliers) if self.outliers else x
        self.largest = max(self.largest, float(seen.abs().max()))
        return x


def vit(
    image: int = 32, patch: int = 4, heads: int = 2, head_dim: int = 32, depth: int = 1
) -> nn.Module:
    """An untrained ViT with explicit attention, 10 classes, biases of its own everywhere."""
    from timm.models.vision_transformer import VisionTransformer

    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=image,
        patch_size=patch,
        embed_dim=heads * head_dim,
        depth=depth,
        num_heads=heads,
        num_classes=10,
    ).eval()
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.1)
            elif "norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif parameter.ndim == 2:
                parameter.normal_(0, 0.1)
    return ViTFamily().rewrite(network)


def plant(module: nn.Module, layer: str, units: tuple[int, ...], size: float) -> nn.Module:
    """A copy of ``module`` in which hidden units reach about ``size`` before the Linear ``layer``.

    Their columns of weights are as long as others.
    """
    module = copy.deepcopy(module)
    first = module.get_submodule(layer.replace("fc2", "fc1"))
    assert isinstance(first, nn.Linear)
    with torch.no_grad():
        for unit in units:
            first.weight[unit] *= size / 4  # others reach about 4
    return module


def simulate(
    module: nn.Module,
    precision: Precision,
    images: torch.Tensor,
    outliers: Mapping[str, tuple[int, ...]] = {},
) -> nn.Module:
    """A copy of ``module`` with frozen quantisers, scales from the largest magnitudes.

    Args:
        outliers: of which Linears which columns are computed in floating point.
    """
    module = copy.deepcopy(module)
    precision = precision.placed(ViTFamily().roles(module))
    for name, layer in quantizable_layers(module).items():
        wanted = precision.of(name)
        if wanted.is_float:
            continue
        columns = outliers.get(name, ())
        weight = layer.weight.detach()
        quantizer = weight_quantizer(without_columns(weight, columns), wanted)
        swapped: QuantLinear | QuantConv2d
        if isinstance(layer, nn.Linear):
            swapped = QuantLinear(layer, quantizer, columns)
        else:
            swapped = QuantConv2d(layer, quantizer)
        if wanted.activation_bits is not None:
            swapped.input_quantizer = _Range(columns)
        module.set_submodule(name, swapped)
    bits = precision.attention_bits
    if bits is not None:
        for attention in module.modules():
            if isinstance(attention, ExplicitAttention):
                for point in ("q", "k", "v", "probs"):
                    setattr(attention, f"{point}_quantizer", _Range())
    with torch.no_grad():
        module(images)
    for name, parent in list(module.named_modules()):
        for point, seen in list(parent.named_children()):
            if isinstance(seen, _Range):
                layer_bits = precision.of(name).activation_bits or bits
                assert layer_bits is not None
                behind_gelu = name.endswith("fc2")
                quantizer = activation_quantizer(seen.largest, layer_bits, point, behind_gelu)
                setattr(parent, point, quantizer)
    return freeze(module).eval()


def weight_quantizer(weight: torch.Tensor, wanted: LayerPrecision) -> nn.Module:
    if wanted.weight_bits is None:
        return nn.Identity()
    grid = Grid.weight(wanted.weight_bits)
    axis, block = weight_axis(wanted.granularity)
    if axis < 0:
        largest = weight.abs().max()
    elif block:
        largest = weight.unflatten(axis, (-1, block)).abs().amax(axis + 1)
    else:
        largest = weight.abs().flatten(1).amax(1)
    return Quantizer(largest.clamp_min(1e-6) / grid.qmax, grid, axis, block)


def activation_quantizer(
    largest: float, bits: int, point: str, behind_gelu: bool = False
) -> Quantizer:
    if point == "probs_quantizer" and bits == 8:
        return Quantizer(torch.tensor(1 / 127), Grid(0, 127))
    grid = Grid.signed(bits)
    if bits == 4 and point == "probs_quantizer":
        grid = Grid(0, 7, 15, 8)
    elif bits == 4 and behind_gelu:
        grid = Grid(-2, 5, 4, 8)
    elif bits == 4:
        grid = Grid(-6, 5, 2, 2, 2)
    return Quantizer(torch.tensor(largest / grid.top), grid)


def run_file(path: Path, images: torch.Tensor, level: str = "ORT_ENABLE_ALL") -> torch.Tensor:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    # Otherwise weight-only layers round their inputs to 8 bits as they run.
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


def distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).abs().mean())
