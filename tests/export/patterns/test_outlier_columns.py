"""Outlier columns of a Linear: what each form of the graph makes of them, and what it says."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner
from export_networks import PRECISIONS, Exported, distance, plant, run_file, simulate, vit
from graphs import graph, run
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from mimiq.cli import main
from mimiq.export import check, export_onnx, summarize, to_cpu, to_fp16
from mimiq.export.forms import to_float
from mimiq.export.graph import load, nodes_of, save
from mimiq.export.passes.integers.integer_products import PRODUCT
from mimiq.export.patterns.bounds import largest
from mimiq.export.patterns.outlier_columns import find_outliers
from mimiq.export.tensorrt.proof import Proof, judge, proof_rows
from mimiq.export.tensorrt.summary import PlanSummary
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession

FC2 = "blocks.1.mlp.fc2"
LABELS = [label for label in PRECISIONS if label != "fp32"]
ONE, THREE = {FC2: (7,)}, {FC2: (3, 7, 200)}
BOTH = {"blocks.0.mlp.fc2": (7,), FC2: (3, 7, 200)}
ExportOutliers = Callable[..., Exported]
needs_rtx = pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)


@pytest.fixture(scope="module")
def outlying(tmp_path_factory: pytest.TempPathFactory) -> ExportOutliers:
    """A ViT of two blocks with massive hidden units, in the second at least, kept apart, exported.

    Told the columns to keep apart by the Linears that read them.
    """
    made: dict[tuple[str, str, float], Exported] = {}
    folder = tmp_path_factory.mktemp("outlying")
    images = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def export(
        label: str, outliers: Mapping[str, tuple[int, ...]] = ONE, size: float = 100.0
    ) -> Exported:
        key = (label, str(outliers), size)
        if key not in made:
            network = vit(depth=2)
            for layer, columns in outliers.items():
                if layer.endswith("fc2"):
                    network = plant(network, layer, columns, size)
            module = simulate(network, PRECISIONS[label], images, outliers)
            path = export_onnx(module, 32, folder / f"{len(made)}.onnx")
            made[key] = Exported(module, path, images, PRECISIONS[label])
        return made[key]

    return export


def simulated(network: Exported) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = network.module(network.images)
    return logits


def disturbed(network: Exported) -> torch.Tensor:
    """What the simulation makes of images that differ by as much as half rounds, 2^-11."""
    noise = torch.randn(network.images.shape, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        logits: torch.Tensor = network.module(network.images * (1 + 5e-4 * noise))
    return logits


def run_cpu(path: Path, images: torch.Tensor) -> torch.Tensor:
    return torch.from_numpy(OnnxRuntimeSession(path, device="cpu", threads=1).run(images.numpy()))


@pytest.mark.parametrize("label", LABELS)
def test_every_form_computes_what_the_simulation_computes(
    outlying: ExportOutliers, label: str, tmp_path: Path
) -> None:
    """With one such column, and with several."""
    network = outlying(label, BOTH)
    expected = simulated(network)
    scale = float(expected.abs().max())
    # Roundings that tip to the next step count little beside a unit that went astray.
    assert distance(run_file(network.path, network.images), expected) < 2e-3 * scale
    assert run_file(network.path, network.images[:1]).shape == (1, 10)
    half = to_fp16(network.path, tmp_path / "half.onnx")
    limit = 1.5 * distance(disturbed(network), expected) + 1e-3 * scale
    assert distance(run_file(half, network.images), expected) < limit
    cpu = to_cpu(network.path, tmp_path / "cpu.onnx")
    assert cpu is not None
    assert distance(run_cpu(cpu, network.images), expected) < 1e-2 * scale


@pytest.mark.parametrize(("size", "share"), [(30.0, 1.0), (200.0, 0.5)])
def test_a_unit_far_larger_than_others_costs_the_others_nothing(
    outlying: ExportOutliers, size: float, share: float, tmp_path: Path
) -> None:
    """Less than with one scale for all columns, and far less the larger the unit is."""
    network = outlying("w8a8", ONE, size)
    exact = plant(vit(depth=2), FC2, ONE[FC2], size)
    images = network.images
    with torch.no_grad():
        wanted = exact(images)
        together = simulate(exact, PRECISIONS["w8a8"], images)(images)
    half = to_fp16(network.path, tmp_path / "half.onnx")
    for path in (network.path, half):
        assert distance(run_file(path, images), wanted) < share * distance(together, wanted)


@pytest.mark.parametrize("label", LABELS)
def test_it_is_the_same_linear_to_every_reader(
    outlying: ExportOutliers, exported: Callable[[str], Exported], label: str, tmp_path: Path
) -> None:
    network, plain = outlying(label, BOTH), exported(label)
    for convert in (to_fp16, to_cpu, None):
        found, usual = (
            path if convert is None else convert(path, tmp_path / f"{index}.onnx")
            for index, path in enumerate((network.path, plain.path))
        )
        if found is None or usual is None:
            continue
        summary = summarize(found)
        in_floats = convert is to_cpu and "a16" in label  # such a Linear, and no other one
        if not in_floats:
            assert summary["layers"] == summarize(usual)["layers"]
        expected = {f"{layer}/MatMul": len(columns) for layer, columns in BOTH.items()}
        assert summary["outlier_columns"] == expected
        assert summarize(usual)["outlier_columns"] == {}
        for target in () if in_floats else ("rtx", "trt"):
            rules = [one.rule for one in check(found, target)]  # type: ignore[arg-type]
            assert rules == [one.rule for one in check(usual, target)]  # type: ignore[arg-type]


def test_the_weights_are_named_after_their_column(outlying: ExportOutliers) -> None:
    model = load(outlying("w8a8", THREE).path)
    names = [f"{FC2}.outlier_weight.{column}" for column in THREE[FC2]]
    assert [name for name in model.graph.initializers if "outlier_weight" in name] == names


def test_the_integer_product_keeps_its_bias_on_a_cpu(
    outlying: ExportOutliers, tmp_path: Path
) -> None:
    path = to_cpu(outlying("w8a8", THREE).path, tmp_path / "cpu.onnx")
    assert path is not None
    products = nodes_of(load(path), PRODUCT)
    # qkv is three in both blocks, beside proj, fc1, fc2, and the head.
    assert len(products) == 2 * 6 + 1
    assert all(len(product.inputs) == 7 for product in products)  # the last is the bias


def test_columns_of_a_joined_projection_are_split_with_it(
    outlying: ExportOutliers, tmp_path: Path
) -> None:
    network = outlying("w8a8", {"blocks.1.attn.qkv": (3, 7, 20)})
    path = to_cpu(network.path, tmp_path / "cpu.onnx")
    assert path is not None
    found = {one.name: one.rows.shape for one in find_outliers(load(path))}
    assert found == {f"blocks.1.attn.qkv/MatMul.{letter}": (3, 64) for letter in "qkv"}
    expected = simulated(network)
    assert distance(run_cpu(path, network.images), expected) < 1e-2 * float(expected.abs().max())


def test_in_floating_point_they_are_columns_again(outlying: ExportOutliers, tmp_path: Path) -> None:
    network = outlying("w4a16", BOTH)
    plain = to_float(network.path, tmp_path / "float.onnx")
    summary = summarize(plain)
    assert summary["outlier_columns"] == {}
    assert "Slice" not in {node.op_type for node in load(plain).graph if FC2 in (node.name or "")}
    expected = simulated(network)  # no activation was rounded
    assert distance(run_file(plain, network.images), expected) < 1e-4 * float(expected.abs().max())


def test_heads_read_in_floating_point_cost_the_fused_attention(
    outlying: ExportOutliers, tmp_path: Path
) -> None:
    network = outlying("w8a8", {"blocks.1.attn.proj": (7,)})
    half = to_fp16(network.path, tmp_path / "half.onnx")
    (finding,) = check(half, "rtx")
    assert finding.rule == "attention-read-in-float"
    assert finding.node == "blocks.1.attn.proj/MatMul"
    assert finding.severity == "slow"


def test_columns_that_could_overflow_half_stay_fp32(
    outlying: ExportOutliers, tmp_path: Path
) -> None:
    usual = to_fp16(outlying("w8a8", THREE).path, tmp_path / "usual.onnx")
    assert product_types(usual) == {ir.DataType.FLOAT16}
    huge = outlying("w8a8", ONE, 3e6)
    half = to_fp16(huge.path, tmp_path / "half.onnx")
    assert product_types(half) == {ir.DataType.FLOAT}
    assert "outlier-overflow" not in {finding.rule for finding in check(half, "rtx")}


def test_columns_in_half_that_could_overflow_are_found(
    outlying: ExportOutliers, tmp_path: Path
) -> None:
    half = load(to_fp16(outlying("w8a8", ONE).path, tmp_path / "half.onnx"))
    (outliers,) = find_outliers(half)
    row = outliers.products[0].inputs[1]
    assert row is not None
    row.const_value = ir.tensor(np.full(outliers.rows.shape[1], 6e4, np.float16))
    (finding,) = check(save(half, tmp_path / "edited.onnx"), "rtx")
    assert finding.rule == "outlier-overflow"
    assert finding.severity == "overflows"


def product_types(path: Path) -> set[ir.DataType | None]:
    return {
        product.outputs[0].dtype
        for outliers in find_outliers(load(path))
        for product in outliers.products
    }


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.floats(1e-2, 1e4),
    quantized=st.booleans(),
)
def test_no_input_passes_the_bound(seed: int, size: float, quantized: bool) -> None:
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(8, 5)).astype(np.float32)
    bias = generator.normal(size=5).astype(np.float32)
    nodes = [helper.make_node("LayerNormalization", ["x", "gamma", "beta"], ["n"], axis=-1)]
    if quantized:
        nodes += [
            helper.make_node("QuantizeLinear", ["n", "s", "z"], ["i"]),
            helper.make_node("DequantizeLinear", ["i", "s", "z"], ["q"]),
        ]
    nodes += [
        helper.make_node("MatMul", ["q" if quantized else "n", "w"], ["m"]),
        helper.make_node("Add", ["m", "b"], ["a"]),
        helper.make_node("Gelu", ["a"], ["y"]),
    ]
    constants = {
        "gamma": generator.normal(size=8).astype(np.float32),
        "beta": generator.normal(size=8).astype(np.float32),
        "s": np.float32(0.02),
        "z": np.int8(0),
        "w": weight,
        "b": bias,
    }
    model = graph(nodes, {"x": (16, 8)}, constants)
    bound = largest(model.graph.outputs[0])
    assert bound is not None
    assert bound.shape == (5,)
    x = (size * generator.normal(size=(16, 8)) ** 3).astype(np.float32)
    x[0] = size * (weight[:, 0] > 0)
    (y,) = run(model, x=x)
    assert (np.abs(y) <= bound * (1 + 1e-5)).all()


def test_what_nothing_bounds_has_no_bound() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    model = graph(nodes, {"x": (2, 4)}, {"w": np.ones((4, 3), np.float32)})
    assert largest(model.graph.outputs[0]) is None


@pytest.mark.parametrize("form", ["model.onnx", "cpu", "half"])
def test_inspect_counts_them(outlying: ExportOutliers, form: str, tmp_path: Path) -> None:
    path: Path | None = outlying("w8a8", THREE).path
    assert path is not None
    if form != "model.onnx":
        path = {"cpu": to_cpu, "half": to_fp16}[form](path, tmp_path / f"{form}.onnx")
    result = CliRunner().invoke(main, ["inspect", str(path)])
    assert result.exit_code == 0, result.output
    assert "1 Linear computes 3 outlier columns in floating point" in result.output


def test_a_proof_counts_them_and_survives_as_json() -> None:
    summary = PlanSummary("plan", 1)
    proof = Proof(summary, (), (), (), (), {"a/MatMul": 1, "b/MatMul": 4})
    assert ("outlier columns", "2 Linears compute 5 outlier columns in floating point") in list(
        proof_rows(proof)
    )
    assert Proof.from_json(proof.to_json()) == proof
    older = proof.to_json()
    del older["outlier_columns"]
    assert Proof.from_json(older).outlier_columns == {}


@needs_rtx
def test_an_engine_computes_them_in_kernels_it_has_anyway(
    outlying: ExportOutliers, exported: Callable[[str], Exported], tmp_path: Path
) -> None:
    from mimiq.export.tensorrt.build import BuildOptions, build_engine
    from mimiq.export.tensorrt.plan import read_plan
    from mimiq.runtime.tensorrt.products import RTX

    options = BuildOptions(compute_capabilities=("8.6",), batches=(1, 2, 2))
    kernels = []
    for path, columns in ((exported("w8a8").path, {}), (outlying("w8a8", THREE).path, {FC2: 3})):
        built = build_engine(to_fp16(path, tmp_path / "half.onnx"), RTX, options)
        proof = judge(read_plan(built.plan), built.wanted)
        assert proof.fallbacks == proof.unproven == proof.unfused == ()
        assert proof.outlier_columns == {f"{name}/MatMul": n for name, n in columns.items()}
        assert proof.summary.linears() == {"int8": 9}
        assert proof.summary.fused_attentions() == {"int8": 2}
        kernels.append(proof.summary.kernels)
    assert kernels[0] == kernels[1]
