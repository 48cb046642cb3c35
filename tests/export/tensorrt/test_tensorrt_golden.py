"""Golden engines: what the real export path becomes, for real architectures, on any host.

Weights are untrained except the embedded model's (and DeiT-T's where ../shared has them), and only
the embedded model's scales are searched for: which precision is built does not depend on what the
numbers are. A change of these counts is a change of the product.
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("timm", reason="the extra 'compile' is not installed")
if importlib.util.find_spec("tensorrt_rtx") is None:
    pytest.skip("the extra 'rtx' is not installed", allow_module_level=True)

import torch
from export_networks import DEIT_T, simulate

from mimiq.config.precision import from_bits, int4, int8, weight_only
from mimiq.export.forms import to_fp16
from mimiq.export.rules import check, require
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import Proof, judge, require_precision
from mimiq.export.tensorrt.summary import PlanSummary
from mimiq.export.torch_onnx import export_onnx
from mimiq.models import load_model
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.runtime.tensorrt.products import RTX

pytestmark = pytest.mark.slow

QUICK = RangeRecipe(observer="minmax", migrate=False, refit=False, rounding="nearest")
PRECISIONS = {
    "int8": int8(),
    "int4": int4(),
    "weight-only": weight_only(4, 64),
    "w4a4": from_bits(4, 4),
}


class Exported:
    """A model's graphs by the steps that the compiler takes, calibrated on noise, made once.

    Args:
        name: as people call it, or ``name/3`` for one of three blocks: a first, a last, and one
            between. What is built of a block does not depend on how many there are.
    """

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        trained = name == "deit_t" and DEIT_T.is_file()
        architecture, _, depth = name.partition("/")
        self._model = load_model(
            architecture,
            weights=DEIT_T if trained else None,
            untrained=not trained and name != "digits",
            model_kwargs={"depth": int(depth)} if depth else None,
        )
        self._folder = folder
        self.blocks = len(self._model.family.blocks(self._model.module))
        self.linears = 4 * self.blocks + 1  # qkv, proj, fc1, fc2, and the head

    def graph(
        self,
        precision: str,
        *,
        int8_carrier: bool = True,
        outliers: Mapping[str, tuple[int, ...]] = {},
    ) -> Path:
        """The half-precision form."""
        parts = [precision, *(f"{name}-{len(columns)}" for name, columns in outliers.items())]
        source = self._folder / f"{'-'.join(parts)}.onnx"
        if not source.is_file():
            size = self._model.preprocessing.image_size
            images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
            wanted = PRECISIONS[precision]
            if self.name == "digits":
                module = quantize(self._model, wanted, images, QUICK).module
            else:
                module = simulate(self._model.module, wanted, images, outliers)
            export_onnx(module, size, source)
        half = source.with_name(f"{source.name}-{int8_carrier}.fp16.onnx")
        return to_fp16(source, half, int8_carrier=int8_carrier)


@pytest.fixture(scope="module")
def exported(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(request.param, tmp_path_factory.mktemp(request.param.replace("/", "-")))


def of(*names: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("exported", names, indirect=True, scope="module")


@functools.cache  # several tests hold an engine against the plain one
def proven(graph: Path) -> Proof:
    built = build_engine(graph, RTX, BuildOptions(batches=(1, 8, 128)))
    assert built.batches == (1, 8, 128)
    return judge(read_plan(built.plan), built.wanted)


def build(graph: Path, outliers: Mapping[str, int] | None = None) -> PlanSummary:
    proof = proven(graph)
    require_precision(proof)
    assert proof.fallbacks == proof.unproven == proof.unfused == proof.overflow == ()
    assert outliers is None or proof.outlier_columns == outliers
    return proof.summary


@of("digits", "deit_t", "deit_s/3", "deit_b/3")  # vit_s is deit_s, to the weight
def test_int8(exported: Exported) -> None:
    """Every Linear and every attention in int8: 49 of 49 and 12 of 12 for twelve blocks."""
    graph = exported.graph("int8")
    require(graph, "rtx")
    summary = build(graph)
    assert summary.linears() == {"int8": exported.linears}
    assert summary.fused_attentions() == {"int8": exported.blocks}
    assert not summary.matmuls()
    assert summary.reformats <= 2
    assert summary.unpacks == 0
    assert {product.output for product in summary.of_role("linear")} == {"half"}  # two bytes each
    if exported.name == "deit_t":
        assert (exported.linears, exported.blocks) == (49, 12)
        # The engine from Model Optimizer's graph of the same model has 16.9 MB.
        assert summary.plan_bytes < 16.9e6


@of("deit_t/3")
@pytest.mark.parametrize(
    ("precision", "columns"),
    [("int8", (115, 607)), ("int4", (115, 607)), ("int8", tuple(range(8)))],
)
def test_outlier_columns_cost_no_kernel(
    exported: Exported, precision: str, columns: tuple[int, ...]
) -> None:
    """Where GELU writes them: what multiplies and adds them joins kernels that are there anyway."""
    plain = build(exported.graph(precision))
    graph = exported.graph(precision, outliers={"blocks.1.mlp.fc2": columns})
    assert require(graph, "rtx") == []
    summary = build(graph, outliers={"blocks.1.mlp.fc2/MatMul": len(columns)})
    assert summary.linears() == {"int8": exported.linears}
    assert summary.fused_attentions() == {"int8": exported.blocks}
    assert not summary.matmuls()
    assert (summary.kernels, summary.reformats) == (plain.kernels, plain.reformats)


@of("deit_t/3")
def test_outlier_columns_of_a_layer_norm_cost_one_kernel(exported: Exported) -> None:
    outliers = {"blocks.1.attn.qkv": (5, 12, 19)}
    plain = build(exported.graph("int8"))
    summary = build(exported.graph("int8", outliers=outliers), {"blocks.1.attn.qkv/MatMul": 3})
    assert summary.linears() == {"int8": exported.linears}
    assert summary.fused_attentions() == {"int8": exported.blocks}
    assert summary.kernels == plain.kernels + 1


@of("digits", "deit_t/3")
def test_int4_weights_alone(exported: Exported) -> None:
    """Int4 blocks are multiplied in half, unpacked inside of the product; the head's are int8."""
    summary = build(exported.graph("weight-only"))
    assert summary.linears() == {"int4→half": exported.linears - 1, "int8→half": 1}
    assert summary.fused_attentions() == {"half": exported.blocks}
    assert not any(product.unpacked for product in summary.of_role("linear"))


@of("digits", "deit_t/3")
def test_int4_carried_by_int8(exported: Exported) -> None:
    """What --int4 ships to TensorRT: int8 products; the 4-bit values need no unpacking."""
    summary = build(exported.graph("int4"))
    assert summary.linears() == {"int8": exported.linears}
    assert not any(product.unpacked for product in summary.of_role("linear"))


@of("digits", "deit_t/3")
def test_int4_stored_as_int4(exported: Exported) -> None:
    """The small form of --int4: int8 products of int4 weights, each unpacked at every inference."""
    graph = exported.graph("int4", int8_carrier=False)
    assert {finding.severity for finding in check(graph, "rtx")} == {"slow"}
    summary = build(graph)
    assert summary.linears() == {"int4→int8": exported.linears - 1, "int8": 1}
    assert summary.fused_attentions() == {"int8": exported.blocks}
    unpacked = [product for product in summary.of_role("linear") if product.unpacked]
    assert len(unpacked) == exported.linears - 1


@of("digits", "deit_t/3")
def test_four_bit_activations_carried_by_int8(exported: Exported) -> None:
    """Every product is int8; what narrows the softmax output keeps attention from fusing."""
    graph = exported.graph("w4a4")
    assert {finding.rule for finding in check(graph, "rtx")} == {"attention-clipped"}
    proof = proven(graph)
    require_precision(proof)
    assert proof.summary.linears() == {"int8": exported.linears}
    assert proof.summary.matmuls() == {"int8": 2 * exported.blocks}
    assert not proof.summary.fused_attentions()
    assert len(proof.unfused) == 2 * exported.blocks
    assert all("with 8 bits for the softmax output" in why for why in proof.unfused)
