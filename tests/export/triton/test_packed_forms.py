"""Which of a bundle's graphs and engines is packed, and how a server is told to run it."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from packing import config_at, images_for, labelled
from tensorrt_bundles import make_bundle as make_transformer_bundle

from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export import to_cpu, to_openvino
from mimiq.export.triton import PackOptions, pack
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.serving.packed import PackedModel, PackedRecord


def with_cpu_form(plain: Bundle, folder: Path) -> Bundle:
    bundle = labelled(plain)
    form = to_cpu(bundle.model_path, folder / "form.onnx")
    assert form is not None
    return add_files(bundle, {"model.cpu.onnx": form})


@pytest.mark.parametrize("preprocess", [False, True])
def test_the_form_for_a_cpu_is_served_on_one(
    bundle: Bundle, tmp_path: Path, preprocess: bool
) -> None:
    formed = with_cpu_form(bundle, tmp_path)
    name, pixels = "pixels" if preprocess else "images", images_for(formed)
    given = pixels if preprocess else formed.preprocessing.normalize(pixels)
    with open_bundle(formed, "ort") as session:
        expected = session.run(pixels)
    for device, files in (
        ("auto", ["mimiq.json", "model.cpu.onnx", "model.onnx"]),
        ("cpu", ["mimiq.json", "model.onnx"]),
        ("gpu", ["mimiq.json", "model.onnx"]),
    ):
        options = PackOptions(device=device, preprocess=preprocess, top_k=3)  # type: ignore[arg-type]
        packed = pack(formed, tmp_path / "repo", device, options)
        assert sorted(path.name for path in (packed.folder / "1").iterdir()) == files
        assert PackedRecord.read(packed.folder / "1/mimiq.json") == packed.record
        in_integers = b"MatMulIntegerToFloat" in (packed.folder / "1/model.onnx").read_bytes()
        assert in_integers == (device == "cpu")
        if device != "gpu":
            with PackedModel(packed.folder, device="cpu") as model:
                np.testing.assert_array_equal(model.run({name: given})["logits"], expected)


def test_openvino_is_given_its_own_form_or_the_plain_graph(bundle: Bundle, tmp_path: Path) -> None:
    options = PackOptions(device="cpu", accelerator="openvino")
    formed = with_cpu_form(bundle, tmp_path)
    packed = pack(formed, tmp_path, "net", options)
    assert (packed.folder / "1/model.onnx").read_bytes() == formed.model_path.read_bytes()
    form = to_openvino(formed.model_path, tmp_path / "openvino.onnx")
    assert form is not None
    packed = pack(add_files(formed, {"model.openvino.onnx": form}), tmp_path, "own", options)
    assert (packed.folder / "1/model.onnx").read_bytes() == form.read_bytes()


def test_openvino_s_own_servers_are_told_what_they_read(bundle: Bundle, tmp_path: Path) -> None:
    options = PackOptions(backend="openvino", instances=2, top_k=3, preprocess=True)
    packed = pack(with_cpu_form(bundle, tmp_path), tmp_path / "repo", "net", options)
    config, size = config_at(packed.folder), bundle.preprocessing.image_size
    assert (config.backend, config.default_model_filename) == ("openvino", "model.onnx")
    # A batch that the server makes would fix the network's: requests run as they come.
    assert config.max_batch_size == 0
    assert not config.HasField("dynamic_batching")
    assert list(config.input[0].dims) == [-1, size, size, 3]
    assert [list(output.dims) for output in config.output] == [
        [-1, bundle.num_classes],
        [-1, 3],
        [-1, 3],
    ]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1, 1]
    assert [w.inputs["pixels"].dims[0] for w in config.model_warmup] == [1, 8]
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert (values["PERFORMANCE_HINT"], values["NUM_STREAMS"]) == ("THROUGHPUT", "2")
    assert values["mimiq_manifest_sha256"] == packed.record.manifest_sha256
    assert "was run on this" in packed.notes[0]

    (entry,) = json.loads((tmp_path / "repo/net.ovms.json").read_text())["model_config_list"]
    documented = {"name", "base_path", "model_version_policy", "target_device", "plugin_config"}
    assert set(entry["config"]) == documented
    assert (entry["config"]["name"], entry["config"]["base_path"]) == ("net", "net")
    assert b"MatMulIntegerToFloat" not in (packed.folder / "1/model.onnx").read_bytes()

    with pytest.raises(BadInput, match="OpenVINO serves on the CPU"):
        pack(bundle, tmp_path / "repo", "gpu", PackOptions(backend="openvino", device="gpu"))


def test_openvino_takes_the_packed_graph(bundle: Bundle, tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino", reason="openvino is not installed")
    options = PackOptions(backend="openvino", top_k=3, preprocess=True)
    packed, pixels = pack(bundle, tmp_path, "net", options), images_for(bundle, 2)
    network = openvino.Core().compile_model(packed.folder / "1/model.onnx", "CPU")
    found = network({"pixels": pixels})
    with PackedModel(packed.folder, device="cpu") as model:
        wanted = model.run({"pixels": pixels})
    assert {key.get_any_name() for key in found} == set(wanted)
    np.testing.assert_allclose(found["logits"], wanted["logits"], atol=0.1)


def test_a_damaged_form_for_a_cpu_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(with_cpu_form(bundle, tmp_path), tmp_path, "net")
    form = packed.folder / "1/model.cpu.onnx"
    form.write_bytes(form.read_bytes()[:-1])
    with pytest.raises(BadInput, match=r"model\.cpu\.onnx is not the file .* hash differ"):
        PackedModel(packed.folder, device="cpu")
    form.unlink()
    with pytest.raises(BadInput, match=r"model\.cpu\.onnx is missing"):
        PackedModel(packed.folder, device="cpu")


def with_engine(bundle: Bundle, product: str, batches: tuple[int, int, int]) -> Bundle:
    """A bundle with a record of an engine, and bytes in the engine's place."""
    folder = bundle.path.parent
    (folder / "plan").write_bytes(b"plan of " + product.encode())
    record = {
        "product": product,
        "version": "10.9.0",
        "targets": [],
        "forward_compatible": False,
        "gpu": "NVIDIA L4",
        "gpu_compute_capability": "8.9",
        "hardware_compatibility": "none",
        "batches": list(batches),
        "allow_fallback": False,
        "source": "model.onnx",
        "source_sha256": "0",
        "plan_sha256": "0",
        "plan_bytes": 3,
    }
    (folder / "record").write_text(json.dumps(record))
    files = {
        f"engines/{product}.plan": folder / "plan",
        f"engines/{product}.json": folder / "record",
    }
    return add_files(bundle, files)


def test_an_engine_is_packed_with_its_profile(tmp_path: Path) -> None:
    bundle = with_engine(make_transformer_bundle(tmp_path), "trt", (1, 8, 48))
    packed = pack(bundle, tmp_path / "repo", "net", PackOptions(backend="tensorrt"))
    config = config_at(packed.folder)
    assert (config.backend, config.max_batch_size) == ("tensorrt", 48)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 48]
    (group,) = config.instance_group
    assert group.kind == group.KIND_GPU
    assert (packed.folder / "1/model.plan").read_bytes() == b"plan of trt"
    assert "TensorRT 10.9.0 on NVIDIA L4" in packed.notes[0]
    with pytest.raises(UnsupportedTarget, match="is a TensorRT engine"):
        PackedModel(packed.folder)
    for options, why in (
        (PackOptions(backend="tensorrt", max_batch=64), "more than the 48"),
        (PackOptions(backend="tensorrt", top_k=1), "edit the graph"),
        (PackOptions(backend="tensorrt", device="cpu"), "runs on a GPU"),
    ):
        with pytest.raises(BadInput, match=why):
            pack(bundle, tmp_path / "repo", "other", options)
    with pytest.raises(BadInput, match="its backend are tensorrt"):
        pack(bundle, tmp_path / "repo", "net")


@pytest.mark.parametrize(
    ("product", "batches", "why"),
    [("rtx", (1, 8, 32), "TensorRT-RTX alone"), ("trt", (8, 8, 32), "also gets single images")],
)
def test_an_engine_that_triton_cannot_serve(
    tmp_path: Path, product: str, batches: tuple[int, int, int], why: str
) -> None:
    bundle = with_engine(make_transformer_bundle(tmp_path), product, batches)
    with pytest.raises(UnsupportedTarget, match=why):
        pack(bundle, tmp_path / "repo", "net", PackOptions(backend="tensorrt"))
