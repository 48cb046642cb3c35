"""Engines that run: on a real GPU, against ONNX Runtime on the same graphs and images."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from tensorrt_bundles import make_bundle
from tensorrt_graphs import Spec, transformer

from mimiq.errors import BadInput
from mimiq.export.divergence import diverge
from mimiq.export.graph import load, save
from mimiq.export.passes.half.split_scales import SplitWeightScales
from mimiq.export.tensorrt.build import BuildOptions, build_engine
from mimiq.export.tensorrt.engines import build_for_bundle
from mimiq.export.tensorrt.inspector import read_inspector
from mimiq.export.tensorrt.plan import read_plan
from mimiq.export.tensorrt.proof import judge
from mimiq.runtime.tensorrt.products import Product
from mimiq.runtime.tensorrt.selection import open_tensorrt
from mimiq.runtime.tensorrt.session import TensorRTSession
from mimiq.runtime.tensorrt.timing import device_runner

pytestmark = pytest.mark.gpu

SPEC = Spec(depth=2)
FLOAT = Spec(depth=2, weights="float", activations="float", attention="float")
MAX = 16


def images(batch: int, seed: int = 0) -> np.ndarray[Any, Any]:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((batch, 3, SPEC.image, SPEC.image)).astype(np.float32)


def reference(spec: Spec, folder: Path, batch: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The same graph, node by node, on the CPU."""
    path = folder / "reference.onnx"
    path.write_bytes(transformer(spec).SerializeToString())
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": batch})[0])


def open_spec(folder: Path, product: Product, spec: Spec, **options: Any) -> TensorRTSession:
    graph, plan = folder / "graph.onnx", folder / "engine.plan"
    graph.write_bytes(transformer(spec).SerializeToString())
    plan.write_bytes(build_engine(graph, product, BuildOptions(batches=(1, 4, MAX))).plan)
    return TensorRTSession(plan, product.load(), product, **options)


@pytest.fixture
def session(tmp_path: Path, product: Product) -> Iterator[TensorRTSession]:
    with open_spec(tmp_path, product, SPEC, contexts=2) as opened:
        yield opened


@pytest.mark.parametrize(
    ("spec", "tolerance"),
    [
        (FLOAT, 0.01),
        (SPEC, 0.05),
        (Spec(depth=2, weights="int4"), 0.05),
        (Spec(depth=2, weights="int4-block", activations="float", attention="float"), 0.02),
    ],
    ids=["fp16", "int8", "w4a8", "w4"],
)
def test_numbers(tmp_path: Path, product: Product, spec: Spec, tolerance: float) -> None:
    """Relative to the largest logit; a wrong scale or layout is off by far more."""
    batch = images(2 * MAX + 3)
    wanted = reference(spec, tmp_path, batch)
    with open_spec(tmp_path, product, spec) as opened:
        for _ in range(3):  # plain, captured, replayed
            assert np.abs(opened.run(batch) - wanted).max() < tolerance * np.abs(wanted).max()


@pytest.mark.parametrize("split", [False, True], ids=["fp32", "split scales"])
def test_int8_sums_do_not_overflow(tmp_path: Path, product: Product, split: bool) -> None:
    """Sums of 127 · 127 · K pass half's largest value: in fp32, or scaled inside the product, not.

    The second is read from plans alone so far: this is the test that it holds.
    """
    model = ir.from_proto(transformer(SPEC))
    if split:
        assert SplitWeightScales()(load(model)).modified
    graph, plan = save(model, tmp_path / "graph.onnx"), tmp_path / "engine.plan"
    plan.write_bytes(build_engine(graph, product, BuildOptions(batches=(1, 4, MAX))).plan)
    batch = 100 * images(4)
    with TensorRTSession(plan, product.load(), product) as opened:
        logits = opened.run(batch)
    wanted = reference(SPEC, tmp_path, batch)
    assert np.isfinite(logits).all()
    assert (logits.argmax(1) == wanted.argmax(1)).mean() >= 0.75


def test_batches_and_graphs(session: TensorRTSession) -> None:
    for seed, size in enumerate((1, MAX, 3, 1, 3, MAX + 5, 1, 0, MAX, 3)):
        batch = images(size, seed)
        alone = [session.run(image[None]) for image in batch]
        together = session.run(batch)
        assert together.shape == (size, SPEC.classes)
        if size:
            np.testing.assert_allclose(together, np.concatenate(alone), atol=0.05)


def test_threads(session: TensorRTSession) -> None:
    batches = {seed: images(1 + seed % MAX, seed) for seed in range(12)}
    wanted = {seed: session.run(batch) for seed, batch in batches.items()}
    wrong: list[int] = []

    def work(seed: int) -> None:
        for _ in range(10):
            if not np.allclose(session.run(batches[seed]), wanted[seed], atol=0.05):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in batches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("library", ["torch", "cupy"])
def test_device_arrays(session: TensorRTSession, library: str) -> None:
    module = pytest.importorskip(library)
    batch = images(5)
    wanted = session.run(batch)
    if library == "torch":
        given = module.from_numpy(batch).cuda()
        out = module.empty(5, SPEC.classes, device="cuda")
        back = lambda array: module.as_tensor(array, device="cuda").cpu().numpy()  # noqa: E731
    else:
        given, out = module.asarray(batch), module.empty((5, SPEC.classes), module.float32)
        back = lambda array: module.asnumpy(module.asarray(array))  # noqa: E731
    np.testing.assert_allclose(back(session.run(given)), wanted, atol=0.02)
    assert session.run(given, out=out) is out
    np.testing.assert_allclose(back(out), wanted, atol=0.02)
    with pytest.raises(BadInput):
        session.run(given[:, :, ::2])


def test_pycuda(tmp_path: Path, product: Product) -> None:
    pytest.importorskip("pycuda")
    with open_spec(tmp_path, product, SPEC, allocator="pycuda") as opened:
        wanted = reference(SPEC, tmp_path, images(3))
        assert np.abs(opened.run(images(3)) - wanted).max() < 0.05 * np.abs(wanted).max()


def test_inspector(tmp_path: Path, product: Product) -> None:
    """What the runtime tells agrees with what the plan says, where the plan can be read."""
    graph = tmp_path / "graph.onnx"
    graph.write_bytes(transformer(SPEC).SerializeToString())
    built = build_engine(graph, product, BuildOptions(batches=(1, 4, MAX)))
    with open_spec(tmp_path, product, SPEC) as opened:
        told = read_inspector(opened.inspect(), len(built.plan), built.wanted)
    assert told.source == "inspector"
    assert judge(told, built.wanted).fallbacks == ()
    written = read_plan(built.plan)
    if written.source == "plan":
        assert told.fused_attentions() == written.fused_attentions()


def test_an_engine_parts_nowhere_from_onnxruntime(tmp_path: Path, product: Product) -> None:
    bundle = make_bundle(tmp_path, half=SPEC, model=Spec(depth=2, half=False))
    backend = product.label
    found = diverge(bundle, backend, "onnxruntime-cpu", images(4))
    assert found.first is None, str(found)
    assert len(found.blocks) > 4


def test_bundles(tmp_path: Path, product: Product) -> None:
    bundle = make_bundle(tmp_path, half=SPEC, model=Spec(depth=2, half=False))
    built = build_for_bundle(bundle, product, BuildOptions(batches=(1, 2, 4)))
    with open_tensorrt(built.bundle, product, rebuild=False) as opened:
        assert opened.run(images(6)).shape == (6, SPEC.classes)
    if product.name == "rtx":
        assert built.bundle.path.joinpath("engines/rtx.cache").is_file()


@pytest.mark.parametrize("copies", [False, True])
@pytest.mark.parametrize("graphs", [False, True])
def test_timing(session: TensorRTSession, copies: bool, graphs: bool) -> None:
    seconds = device_runner(session, copies=copies, cuda_graphs=graphs)(4, 20)
    assert len(seconds) == 20
    assert all(0 < value < 1 for value in seconds)
