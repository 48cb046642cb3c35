"""The ONNX Runtime session on small graphs, and the way to it from a bundle."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from runtime_models import CLASSES, SIZE, MakeBundle, MakeModel

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime import Session, classify, open_bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.host import cuda_driver_present
from mimiq.runtime.onnxruntime.graph import failed, integer_kernels, open_graph
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.preprocessing import FloatArray, Preprocessing

onnx = pytest.importorskip("onnx")


def images(batch: int, seed: int = 0) -> FloatArray:
    generator = np.random.default_rng(seed)
    return generator.standard_normal((batch, 3, SIZE, SIZE), dtype=np.float32)


def weights(path: Path) -> dict[str, Any]:
    graph = onnx.load(path).graph
    return {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in graph.initializer}


@pytest.mark.parametrize("batch", [0, 1, 7])
def test_logits_equal_the_arithmetic(make_model: MakeModel, batch: int) -> None:
    path = make_model()
    values, given = weights(path), images(batch)
    with OnnxRuntimeSession(path, threads=1) as session:
        assert isinstance(session, Session)
        assert session.backend == "onnxruntime-cpu"
        assert session.input_shape == (3, SIZE, SIZE)
        assert session.num_classes == CLASSES
        logits = session.run(given)
    assert logits.dtype == np.float32
    assert logits.shape == (batch, CLASSES)
    expected = given.reshape(batch, 3 * SIZE * SIZE) @ values["weight"] + values["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_quantized_linear_runs_on_integers(make_model: MakeModel, tmp_path: Path) -> None:
    path, given = make_model(quantized=True), images(5)
    values = weights(path)
    with OnnxRuntimeSession(path, optimized_model=tmp_path / "optimized.onnx") as session:
        logits = session.run(given)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert {"MatMulIntegerToFloat", "QGemm", "QLinearMatMul"} & set(operators), operators
    assert "MatMul" not in operators
    assert "Gemm" not in operators
    scale = values["x_scale"]
    levels = np.clip(np.round(given.reshape(5, -1) / scale), -128, 127)
    expected = levels * scale @ (values["w"] * values["w_scale"]) + values["bias"]
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)


def test_pixels_are_normalized_as_the_manifest_says(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    pixels = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), dtype=np.uint8)
    with open_bundle(bundle.path, threads=1) as session:
        from_pixels = session.run(pixels)
        from_floats = session.run(bundle.preprocessing.normalize(pixels))
    np.testing.assert_array_equal(from_pixels, from_floats)


def test_views_of_arrays_are_accepted(make_model: MakeModel) -> None:
    with OnnxRuntimeSession(make_model()) as session:
        given = images(6)
        whole = session.run(given)
        np.testing.assert_allclose(session.run(given[::2]), whole[::2], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((1, 3, SIZE, SIZE), np.float64),
        np.zeros((1, 3, SIZE, SIZE), np.float16),
        np.zeros((1, SIZE, SIZE, 3), np.float32),
        np.zeros((1, 3, SIZE, SIZE + 1), np.float32),
        np.zeros((3, SIZE, SIZE), np.float32),
        np.zeros((1, 3, SIZE, SIZE), np.uint8),
        [[0.0]],
        None,
    ],
)
def test_wrong_input_names_both_sides(make_bundle: MakeBundle, wrong: Any) -> None:
    with open_bundle(make_bundle().path, "ort") as session:
        with pytest.raises(BadInput) as caught:
            session.run(wrong)
        assert f"float32 (B, 3, {SIZE}, {SIZE}) or uint8 (B, {SIZE}, {SIZE}, 3)" in str(
            caught.value
        )
        given = str(wrong.dtype) if isinstance(wrong, np.ndarray) else type(wrong).__name__
        assert given in str(caught.value)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(make_model: MakeModel, value: float) -> None:
    with OnnxRuntimeSession(make_model()) as session:
        given = images(4)
        given[2, 1, 0, 0] = value
        with pytest.raises(BadInput, match=r"NaN or infinity, first at index 2"):
            session.run(given)


def test_huge_values_whose_sum_is_not_finite_are_taken(make_model: MakeModel) -> None:
    with OnnxRuntimeSession(make_model()) as session:
        given = np.full((2, 3, SIZE, SIZE), 3e38, np.float32)
        assert session.run(given).shape == (2, CLASSES)


def test_pixels_without_preprocessing_are_refused(make_model: MakeModel) -> None:
    with (
        OnnxRuntimeSession(make_model()) as session,
        pytest.raises(BadInput, match="takes float32"),
    ):
        session.run(np.zeros((1, SIZE, SIZE, 3), np.uint8))


def test_closed_session(make_model: MakeModel) -> None:
    session = OnnxRuntimeSession(make_model())
    session.close()
    session.close()
    with pytest.raises(BadInput, match="closed"):
        session.run(images(1))


def test_fixed_batch(make_model: MakeModel) -> None:
    with OnnxRuntimeSession(make_model(batch=2)) as session:
        assert session.run(images(2)).shape == (2, CLASSES)
        with pytest.raises(BadInput, match="batches of 2 images, not 3"):
            session.run(images(3))


def test_damaged_files(make_model: MakeModel, tmp_path: Path) -> None:
    whole = make_model()
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(whole.read_bytes()[:500])
    empty = tmp_path / "empty.onnx"
    empty.touch()
    unknown = make_model("unknown.onnx", operator="Frobnicate")
    for path in (cut, empty, unknown, tmp_path / "absent.onnx", tmp_path):
        with pytest.raises(BadInput, match=str(path)):
            OnnxRuntimeSession(path)


def test_a_foreign_graph_is_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["tokens"], ["out"])],
        "text",
        [helper.make_tensor_value_info("tokens", TensorProto.FLOAT, ["batch", 16])],
        [helper.make_tensor_value_info("out", TensorProto.FLOAT, ["batch", 16])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, tmp_path / "text.onnx")
    with pytest.raises(BadInput, match=r"tokens: tensor\(float\)"):
        OnnxRuntimeSession(tmp_path / "text.onnx")


@pytest.mark.parametrize(
    "options", [{"device": "tpu"}, *({"threads": n} for n in (0, "2", 2.5, True, 10**12))]
)
def test_bad_options(make_model: MakeModel, options: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        OnnxRuntimeSession(make_model(), **options)


def test_unknown_backend(make_bundle: MakeBundle) -> None:
    with pytest.raises(BadInput, match="no-such-chip"):
        open_bundle(make_bundle().path, "no-such-chip")


@pytest.mark.skipif(cuda_driver_present(), reason="this host has an NVIDIA GPU")
def test_cuda_without_a_driver(make_bundle: MakeBundle, capfd: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle()
    with pytest.raises(EnvironmentLacks, match="NVIDIA"):
        open_bundle(bundle, "ort-cuda")
    with open_bundle(bundle, "auto") as session:
        assert session.backend == "onnxruntime-cpu"
        session.run(images(1))
    assert capfd.readouterr() == ("", "")


@pytest.mark.gpu
@pytest.mark.skipif(not cuda_driver_present(), reason="needs an NVIDIA GPU and driver")
def test_cuda_agrees_with_the_cpu(make_bundle: MakeBundle) -> None:
    bundle, given = make_bundle(), images(9)
    with open_bundle(bundle, "ort-cuda") as gpu, open_bundle(bundle, "ort") as cpu:
        assert gpu.backend == "onnxruntime-cuda"
        np.testing.assert_allclose(gpu.run(given), cpu.run(given), rtol=1e-2, atol=1e-2)


def test_classify(make_bundle: MakeBundle, tmp_path: Path, preprocessing: Preprocessing) -> None:
    bundle, paths = make_bundle(), []
    for index in range(3):
        pixels = np.random.default_rng(index).integers(0, 256, (20, 30, 3), dtype=np.uint8)
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels).save(paths[-1])
    with open_bundle(bundle) as session:
        found = classify(session, paths, preprocessing, bundle.labels, top_k=CLASSES)
        logits = session.run(preprocessing.load(paths))
        assert classify(session, [], preprocessing) == []
    for predictions, row in zip(found, logits, strict=True):
        assert [p.index for p in predictions] == list(np.argsort(-row))
        assert sum(p.probability for p in predictions) == pytest.approx(1)
        ratio = predictions[0].probability / predictions[1].probability
        gap = row[predictions[0].index] - row[predictions[1].index]
        assert np.log(ratio) == pytest.approx(gap, rel=1e-4)
        assert predictions[0].label == f"class {predictions[0].index}"


def save_graph(path: Path, nodes: list[Any], tensors: dict[str, Any], classes: int) -> Path:
    """A graph from ``images`` (batch, 3, SIZE, SIZE) to ``logits`` (batch, classes)."""
    from onnx import TensorProto, helper, numpy_helper

    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 3, SIZE, SIZE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", classes])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in tensors.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    onnx.save(model, path)
    return path


@pytest.mark.parametrize("exact", [False, True])
def test_weight_only_layers_without_zero_points_open_either_way(
    tmp_path: Path, exact: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    """The patch embedding: a Conv of dequantised per-channel int8 weights, its input in float."""
    from onnx import helper

    generator = np.random.default_rng(0)
    weight = generator.integers(-127, 128, (4, 3, SIZE, SIZE), dtype=np.int8)
    scale = generator.uniform(0.01, 0.1, 4).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "scale"], ["weight"], axis=0),
        helper.make_node("Conv", ["images", "weight"], ["patches"]),
        helper.make_node("Flatten", ["patches"], ["logits"]),
    ]
    path = save_graph(tmp_path / "conv.onnx", nodes, {"w": weight, "scale": scale}, 4)
    given = images(3)
    with OnnxRuntimeSession(path, exact=exact) as session:
        logits = session.run(given)
    expected = given.reshape(3, -1) @ (weight * scale[:, None, None, None]).reshape(4, -1).T
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-3)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("quantized", [False, True])
def test_exact_sums_are_asked_for_only_where_there_are_integer_products(
    tmp_path: Path, quantized: bool
) -> None:
    """On weights alone that option aborts the process: some releases, CPUs without VNNI."""
    from onnx import helper

    weight = np.ones((3 * SIZE * SIZE, 4), np.int8)
    tensors = {"w": weight, "scale": np.float32(0.1), "zero": np.int8(0)}
    nodes = [
        helper.make_node("Flatten", ["images"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "scale", "zero"], ["integers"]),
        helper.make_node("DequantizeLinear", ["integers", "scale", "zero"], ["values"]),
        helper.make_node("DequantizeLinear", ["w", "scale", "zero"], ["weight"]),
        helper.make_node("MatMul", ["values" if quantized else "flat", "weight"], ["logits"]),
    ]
    if not quantized:
        del nodes[1:3]
    opened = open_graph(
        save_graph(tmp_path / "graph.onnx", nodes, tensors, 4), device="cpu", exact=True
    )
    options = opened.session.get_session_options()
    asked = options.get_session_config_entry("session.x64quantprecision")
    assert asked == ("1" if quantized else "0")


def test_quantized_attention_scores_open(tmp_path: Path) -> None:
    """Q/DQ before the Transpose of the keys: fails to load with every optimiser on."""
    from onnx import helper

    nodes = [
        helper.make_node("QuantizeLinear", ["images", "q_scale", "zero"], ["q8"]),
        helper.make_node("DequantizeLinear", ["q8", "q_scale", "zero"], ["q"]),
        helper.make_node("QuantizeLinear", ["images", "k_scale", "zero"], ["k8"]),
        helper.make_node("DequantizeLinear", ["k8", "k_scale", "zero"], ["k"]),
        helper.make_node("Transpose", ["k"], ["k_t"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["q", "k_t"], ["scores"]),
        helper.make_node("ReduceSum", ["scores", "axes"], ["logits"], keepdims=0),
    ]
    q_scale, k_scale = np.float32(4 / 127), np.float32(3 / 127)
    tensors = {"q_scale": q_scale, "k_scale": k_scale, "zero": np.int8(0), "axes": np.array([2, 3])}
    path, given = save_graph(tmp_path / "scores.onnx", nodes, tensors, 3), images(2)
    with OnnxRuntimeSession(path, optimized_model=tmp_path / "optimized.onnx") as session:
        logits = session.run(given)
    operators = [node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node]
    assert "MatMulIntegerToFloat" in operators, operators
    q, k = (np.clip(np.round(given / scale), -128, 127) * scale for scale in (q_scale, k_scale))
    expected = (q @ k.transpose(0, 1, 3, 2)).sum(axis=(2, 3))
    np.testing.assert_allclose(logits, expected, rtol=1e-3, atol=1e-2)


def test_a_form_that_this_release_cannot_open_is_replaced_and_said(
    make_bundle: MakeBundle, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from onnx import helper

    unknown = [helper.make_node("NoSuchKernel", ["images"], ["logits"])]
    bundle = add_files(
        make_bundle(), {"model.cpu.onnx": save_graph(tmp_path / "cpu.onnx", unknown, {}, CLASSES)}
    )
    given = images(2)
    with (
        open_bundle(bundle, "ort") as session,
        OnnxRuntimeSession(bundle.file("model.onnx")) as plain,
    ):
        np.testing.assert_array_equal(session.run(given), plain.run(given))
    assert "cannot be opened by ONNX Runtime" in caplog.text
    assert "Opened model.onnx instead, which is slower." in caplog.text


def test_a_bundle_runs_its_form_for_a_cpu_there(
    make_bundle: MakeBundle, make_model: MakeModel
) -> None:
    """The two graphs differ here, so that it shows which one answered."""
    other = make_model("other.onnx", seed=1)
    bundle = add_files(make_bundle(), {"model.cpu.onnx": other})
    given = images(3)
    with OnnxRuntimeSession(other) as expected, open_bundle(bundle, "ort") as session:
        np.testing.assert_array_equal(session.run(given), expected.run(given))
    graphs = {"model.onnx": Path("plain"), "model.cpu.onnx": Path("form")}
    assert deployed_graph(graphs, "cpu") == Path("form")
    assert deployed_graph(graphs, "cuda") == Path("plain")
    assert deployed_graph({"model.onnx": Path("plain")}, "cpu") == Path("plain")


@pytest.mark.parametrize(
    ("sets", "machine", "name", "saturates"),
    [
        (["avx2"], "x86_64", "AVX2 without VNNI", True),
        (["avx2", "avx512f"], "x86_64", "AVX-512 without VNNI", True),
        (["avx2", "avx_vnni"], "AMD64", "AVX-VNNI", False),
        (["avx2", "avx512f", "avx512_vnni"], "x86_64", "AVX512-VNNI", False),
        (["avx2", "avx512f", "avx512_vnni", "amx_int8"], "x86_64", "AMX", False),
        ([], "x86_64", "SSE", True),
        (["asimddp", "i8mm"], "aarch64", "i8mm", False),
    ],
)
def test_which_integer_kernels_a_cpu_has(
    sets: list[str], machine: str, name: str, saturates: bool
) -> None:
    found = integer_kernels(sets, machine)
    assert (found.name, found.saturates) == (name, saturates)
    assert found.text


def test_a_graph_without_outputs_is_refused(make_model: MakeModel, tmp_path: Path) -> None:
    model = onnx.load(make_model())
    model.graph.ClearField("output")
    onnx.save(model, tmp_path / "none.onnx")
    with pytest.raises(BadInput, match="output none"):
        OnnxRuntimeSession(tmp_path / "none.onnx")


def test_memory_that_ran_out_is_not_the_file_s_fault(tmp_path: Path) -> None:
    error = RuntimeError("bfc_arena.cc:360 Failed to allocate memory for requested buffer")
    found = failed(tmp_path / "model.onnx", 32, error)
    assert isinstance(found, EnvironmentLacks)
    assert "at batch 32" in found.problem
    assert isinstance(failed(tmp_path / "model.onnx", 32, RuntimeError("shapes")), BadInput)


def test_eight_threads_share_a_session(make_model: MakeModel) -> None:
    """No answer is another's: each is that of its images alone, to the bit."""
    batches = [images(1 + seed % 5, seed) for seed in range(40)]
    with OnnxRuntimeSession(make_model(quantized=True), threads=1) as session:
        alone = [session.run(batch) for batch in batches]
        with ThreadPoolExecutor(8) as pool:
            for _ in range(10):
                found = pool.map(session.run, batches)
                assert all(map(np.array_equal, alone, found))
