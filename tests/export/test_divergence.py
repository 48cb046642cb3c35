"""Where two backends part: found at the layer that is broken, and nowhere when only rounding."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("timm", reason="the extra 'compile' is not installed")

import onnx_ir as ir
from export_networks import PRECISIONS, simulate, vit
from tensorrt_fake import FakeCuda, FakeEngine, fake_library

from mimiq.config.precision import int8
from mimiq.errors import EnvironmentLacks
from mimiq.export import export_onnx, to_fp16
from mimiq.export.divergence import Difference, Disagreements, differences, diverge
from mimiq.export.graph import Array, add_initializer, array, consumers, load, save
from mimiq.export.patterns.linears import find_linears
from mimiq.export.taps import block_sums, tap
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.onnxruntime.backend import ORT
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.tensorrt.backend import RTX_ENGINES, TensorRT
from mimiq.runtime.tensorrt.session import TensorRTSession

DEPTH, BROKEN = 8, "blocks.5.mlp.fc2.weight_quantizer.scale"


@pytest.fixture(scope="module")
def images() -> Array:
    return np.random.default_rng(1).standard_normal((6, 3, 32, 32)).astype(np.float32)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory, images: Array) -> Path:
    """A network of eight blocks in W8A8."""
    import torch

    module = simulate(vit(depth=DEPTH), PRECISIONS["w8a8"], torch.from_numpy(images))
    return export_onnx(module, 32, tmp_path_factory.mktemp("divergence") / "model.onnx")


def broken(source: Path, target: Path, change: Callable[[Array], Array]) -> Path:
    """A copy whose fifth block multiplies with other weight scales."""
    model = load(source)
    scale = model.graph.initializers[BROKEN]
    values = array(scale)
    assert values is not None
    scale.const_value = ir.tensor(change(values).astype(np.float32), name=BROKEN)
    return save(model, target)


def compared(folder: Path, ours: Path, theirs: Path, images: Array) -> list[Difference]:
    names = block_sums(theirs)
    taps = tap(ours, folder / "ours.onnx", names)
    assert taps == tap(theirs, folder / "theirs.onnx", names)
    with (
        OnnxRuntimeSession(folder / "ours.onnx") as mine,
        OnnxRuntimeSession(folder / "theirs.onnx") as reference,
    ):
        return list(differences(mine, reference, taps, images))


def test_half_precision_is_rounding(tmp_path: Path, plain: Path, images: Array) -> None:
    half = to_fp16(plain, tmp_path / "half.onnx")
    found = compared(tmp_path, half, plain, images)
    assert not any(difference.parts for difference in found)
    assert found[-1].error > 0


@pytest.mark.parametrize("half", [False, True])
def test_a_wrong_scale_in_block_5(tmp_path: Path, plain: Path, images: Array, half: bool) -> None:
    ours = broken(plain, tmp_path / "broken.onnx", lambda scale: 3 * scale)
    ours = to_fp16(ours, tmp_path / "half.onnx") if half else ours
    found = compared(tmp_path, ours, plain, images)
    assert next(difference.tensor for difference in found if difference.parts) == "blocks.5/Add_1"


def test_sums_that_overflow_half(tmp_path: Path, plain: Path, images: Array) -> None:
    """The fp16 accumulation hazard: integer sums as half before their scale, here in block 5.

    ONNX Runtime multiplies the bare integers in half, as a plan does whose scales lie behind a
    product that writes half. Its input saturates, in both graphs, so that the sums grow large.
    """
    model = load(plain)
    step = model.graph.initializers["blocks.5.mlp.fc2.input_quantizer.scale"]
    step.const_value = ir.tensor(np.asarray(1e-4, np.float32), name=step.name)
    reference = save(model, tmp_path / "reference.onnx")
    product = next(node for node in model.graph if node.name == "blocks.5.mlp.fc2/MatMul")
    hazard(model, product)
    found = compared(tmp_path, save(model, tmp_path / "hazard.onnx"), reference, images)
    first = next(difference for difference in found if difference.parts)
    assert (first.tensor, first.error) == ("blocks.5/Add_1", float("inf"))
    # The form that is built for TensorRT keeps such a Linear in fp32.
    half = compared(tmp_path, to_fp16(reference, tmp_path / "half.onnx"), reference, images)
    assert not any(difference.parts for difference in half)


def hazard(model: ir.Model, product: ir.Node) -> None:
    """Let a Linear multiply its integers in half, and scale the result."""
    (linear,) = (found for found in find_linears(model) if found.node is product)
    assert linear.activation is not None
    integers, step = array(linear.stored), array(linear.activation.inputs[1])
    assert integers is not None
    assert step is not None
    assert linear.scale is not None
    (reader,) = consumers(product.outputs[0])
    index = list(reader.inputs).index(product.outputs[0])

    def add(kind: str, *inputs: ir.Value | None, before: ir.Node, **to: ir.DataType) -> ir.Value:
        attributes = {key: ir.AttrInt64(key, int(value)) for key, value in to.items()}
        node = ir.node(kind, inputs, attributes, name=f"hazard/{kind}_{before.name}")
        model.graph.insert_before(before, node)
        return node.outputs[0]

    half, wide = ir.DataType.FLOAT16, ir.DataType.FLOAT
    product.replace_input_with(0, add("Cast", linear.activation.inputs[0], before=product, to=half))
    bare = add_initializer(model.graph, "bare", integers.astype(np.float16))
    product.replace_input_with(1, bare)
    product.outputs[0].type = ir.TensorType(half)
    # Or ONNX Runtime, which multiplies in fp32 here, would not round to half between.
    shape = add_initializer(model.graph, "bare_shape", np.asarray([0, 0, -1], np.int64))
    sums = add("Reshape", product.outputs[0], shape, before=reader)
    scales = add_initializer(model.graph, "scales", (linear.scale * step).astype(np.float32))
    scaled = add("Mul", add("Cast", sums, before=reader, to=wide), scales, before=reader)
    reader.replace_input_with(index, scaled)


# In bundles -----------------------------------------------------------------------------------


def bundle_of(folder: Path, model: Path, half: Path | None = None) -> Bundle:
    files = {"model.onnx": model} | ({"model.fp16.onnx": half} if half else {})
    manifest: dict[str, Any] = {
        "model": {"name": "net", "num_classes": 10, "untrained": True},
        "precision": int8().to_json(),
        "preprocessing": Preprocessing(image_size=32).to_json(),
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 32, 32]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", 10]}],
    }
    for name, path in files.items():
        shutil.copyfile(path, folder / name)
    return write_bundle(folder / "bundle", {n: folder / n for n in files}, manifest)


@pytest.fixture
def half_on_onnxruntime(monkeypatch: pytest.MonkeyPatch) -> None:
    """The graph that an engine would be built from, run by ONNX Runtime."""
    monkeypatch.setattr(
        TensorRT, "open_graph", lambda self, path, **options: OnnxRuntimeSession(path)
    )


@pytest.mark.usefixtures("half_on_onnxruntime")
def test_the_layer_inside_the_block(tmp_path: Path, plain: Path, images: Array) -> None:
    wrong = broken(plain, tmp_path / "broken.onnx", lambda scale: 3 * scale)
    bundle = bundle_of(tmp_path, plain, to_fp16(wrong, tmp_path / "half.onnx"))
    found = diverge(bundle, RTX_ENGINES, ORT, images)
    assert found.first is not None
    assert found.first.tensor == "blocks.5.mlp.fc2/Add"
    assert str(found).startswith("They part at blocks.5.mlp.fc2/Add (relative error")
    assert found.to_json()["first"]["parts"]
    assert len(found.blocks) == 2 * DEPTH + 2


@pytest.mark.usefixtures("half_on_onnxruntime")
def test_near_ties(tmp_path: Path, plain: Path, images: Array) -> None:
    bundle = bundle_of(tmp_path, plain, to_fp16(plain, tmp_path / "half.onnx"))
    found = diverge(bundle, RTX_ENGINES, ORT, images)
    assert found.first is None
    assert "near ties" in str(found)


@pytest.mark.skipif(
    importlib.util.find_spec("tensorrt_rtx") is None, reason="the extra 'rtx' is not installed"
)
def test_an_engine_with_more_outputs_is_built(
    tmp_path: Path, plain: Path, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the real library; what it gives is the fakes' affair, and here the wrong shape."""
    from mimiq.runtime.tensorrt import session as tensorrt

    opened: list[int] = []

    def session(path: Path, library: Any, product: Any, **options: Any) -> TensorRTSession:
        cuda: Any = FakeCuda()
        opened.append(path.stat().st_size)
        fake = FakeEngine(cuda, (1, 1, 1))
        return TensorRTSession(path, fake_library(fake), product, cuda=cuda, **options)

    monkeypatch.setattr(tensorrt, "TensorRTSession", session)
    half = to_fp16(plain, tmp_path / "half.onnx")
    taps = tap(half, tmp_path / "tapped.onnx", block_sums(half))
    with RTX_ENGINES.open_graph(tmp_path / "tapped.onnx") as engine:
        assert engine.backend == "tensorrt-rtx"
    assert opened[0] > 100_000
    assert taps[-1].name == "logits"


def test_without_the_library_that_reads_graphs(
    tmp_path: Path, plain: Path, images: Array, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mimiq.export.taps", None)
    bundle = bundle_of(tmp_path, plain)
    with pytest.raises(EnvironmentLacks, match="onnx-ir") as caught:
        diverge(bundle, RTX_ENGINES, ORT, images)
    assert "mimiq-vit[pack]" in caught.value.next_step


class Answers:
    """A session that gives what it is told, image by image, by the first pixel."""

    def __init__(self, answers: Array) -> None:
        self.answers = answers

    def run(self, images: Array) -> Array:
        return self.answers[images[:, 0, 0, 0].astype(int)]


def test_the_images_that_differ_come_first() -> None:
    theirs = np.eye(3, dtype=np.float32)[[0, 1, 2, 0, 1, 2]]
    ours = theirs.copy()
    ours[3] = np.nan
    ours[5] = [1, 0, 0]
    images = np.zeros((6, 3, 2, 2), np.float32) + np.arange(6)[:, None, None, None]
    mine, reference = Answers(ours), Answers(theirs.astype(np.float32))
    seen = Disagreements(mine, reference, keep=4)  # type: ignore[arg-type]
    for batch in (images[:4].astype(np.float32), images[4:].astype(np.float32)):
        seen.ours(batch)
        seen.theirs(batch)
    order = seen.images[:, 0, 0, 0].tolist()
    assert order[:3] in ([3, 3, 5], [3, 5, 0])
    assert len(order) == 4
