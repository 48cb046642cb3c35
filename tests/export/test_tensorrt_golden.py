"""Golden engines: what the real export path becomes, for real architectures, on any host.

Weights are untrained except the embedded model's (and DeiT-T's where ../shared has them): precision
does not depend on what the weights are. A change of these numbers is a change of the product.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("timm", reason="the extra 'compile' is not installed")
if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("the extra 'rtx' is not installed", allow_module_level=True)

import torch

from mimiq.export.forms import to_fp16
from mimiq.export.graph import load, save
from mimiq.export.rules import check, require
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.product import RTX
from mimiq.export.tensorrt.proof import Proof, judge, require_precision
from mimiq.export.tensorrt.split_scales import SplitWeightScales
from mimiq.export.torch_onnx import export_onnx
from mimiq.models import LoadedModel, load_model
from mimiq.precision import Precision, int4, int8, weight_only
from mimiq.quantization import RangeRecipe, quantize

DEIT_T = Path(__file__).parents[3] / "shared/weights/deit_tiny_patch16_224.safetensors"
LINEARS = {"digits": 17}  # four a block, and the head; 49 for the twelve blocks of the others
QUICK = RangeRecipe(observer="minmax", migrate=False, rounding="nearest")

loaded: dict[str, LoadedModel] = {}


@pytest.fixture(scope="module", autouse=True)
def released() -> Iterator[None]:
    yield
    loaded.clear()


def model_named(name: str) -> LoadedModel:
    if name not in loaded:
        loaded.clear()
        if name == "deit_t" and DEIT_T.is_file():
            loaded[name] = load_model(name, weights=DEIT_T)
        else:
            loaded[name] = load_model(name, untrained=name != "digits")
    return loaded[name]


def export(folder: Path, name: str, precision: Precision, **options: Any) -> Path:
    """The half-precision graph, by the steps that the compiler takes, calibrated on noise."""
    model = model_named(name)
    size = model.preprocessing.image_size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    module = quantize(model, precision, images, QUICK).module
    graph = export_onnx(module, size, folder / "model.onnx")
    return to_fp16(graph, folder / "model.fp16.onnx", **options)


def build(graph: Path) -> Proof:
    built = build_engine(graph, RTX, BuildOptions(batches=(1, 8, 128)))
    assert built.batches == (1, 8, 128)
    proof = judge(read_plan(built.plan), built.wanted)
    require_precision(proof)
    assert proof.fallbacks == proof.unproven == proof.unfused == proof.overflow == ()
    return proof


ORDER = ("digits", "deit_t", "vit_s", "deit_s", "deit_b")


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDER)
def test_int8(tmp_path: Path, name: str) -> None:
    """Every Linear and every attention in int8: 49 of 49 and 12 of 12 for twelve blocks."""
    graph = export(tmp_path, name, int8())
    require(graph, "rtx")
    summary = build(graph).summary
    blocks = (LINEARS.get(name, 49) - 1) // 4
    assert summary.linears() == {"int8": LINEARS.get(name, 49)}
    assert summary.fused_attentions() == {"int8": blocks}
    assert not summary.matmuls()
    assert summary.reformats <= 2
    if name == "deit_t":
        # The engine from Model Optimizer's graph of the same model has 16.9 MB.
        assert summary.plan_bytes < 16.9e6


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "deit_t"])
def test_int8_with_split_scales(tmp_path: Path, name: str) -> None:
    """As int8, but each product writes two bytes an element instead of four, without overflow."""
    model = load(export(tmp_path, name, int8()))
    SplitWeightScales()(model)
    summary = build(save(model, tmp_path / "split.onnx")).summary
    assert summary.linears() == {"int8": LINEARS.get(name, 49)}
    assert summary.fused_attentions() == {"int8": (LINEARS.get(name, 49) - 1) // 4}
    assert {product.output for product in summary.of_role("linear")} == {"half"}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "deit_t", "deit_s", "deit_b"])
def test_int4_weights_alone(tmp_path: Path, name: str) -> None:
    """Every Linear multiplies int4 blocks in half, unpacked inside of the product."""
    block = 32 if name == "digits" else 64
    summary = build(export(tmp_path, name, weight_only(4, block))).summary
    blocks = (LINEARS.get(name, 49) - 1) // 4
    assert summary.linears() == {"int4→half": LINEARS.get(name, 49)}
    assert summary.fused_attentions() == {"half": blocks}
    linears = list(summary.of_role("linear"))
    assert not any(product.unpacked for product in linears)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "deit_t"])
def test_int4_carried_by_int8(tmp_path: Path, name: str) -> None:
    """What --int4 ships to TensorRT: int8 products; the 4-bit values need no unpacking."""
    summary = build(export(tmp_path, name, int4())).summary
    assert summary.linears() == {"int8": LINEARS.get(name, 49)}
    assert not any(product.unpacked for product in summary.of_role("linear"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "deit_t", "deit_s", "deit_b"])
def test_int4_stored_as_int4(tmp_path: Path, name: str) -> None:
    """The small form of --int4: int8 products of int4 weights, each unpacked at every inference."""
    graph = export(tmp_path, name, int4(), int8_carrier=False)
    assert {finding.severity for finding in check(graph, "rtx")} == {"slow"}
    summary = build(graph).summary
    linears = LINEARS.get(name, 49)
    assert summary.linears() == {"int4→int8": linears}
    assert summary.fused_attentions() == {"int8": (linears - 1) // 4}
    assert sum(product.unpacked for product in summary.of_role("linear")) == linears
