"""The model repository: configuration by Triton's own schema, versions, edited graphs."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorrt_bundles import make_bundle as make_transformer_bundle

from mimiq.cli import main
from mimiq.errors import BadInput, EnvironmentLacks, UnsupportedTarget
from mimiq.export import to_cpu, to_openvino
from mimiq.export.triton import PackOptions, pack
from mimiq.export.triton.config import ModelConfig, check_config, config_text
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.serving.packed import PackedModel, PackedRecord, Tensor, versions_of


def parsed(text: str) -> Any:
    """The configuration by Triton's own schema."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    pytest.importorskip("tritonclient.grpc", reason="tritonclient reads the schema")
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def config_at(folder: Path) -> Any:
    return parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A small quantised transformer with labels, one of them hard to quote."""
    return labelled(make_transformer_bundle(tmp_path_factory.mktemp("made")))


def labelled(plain: Bundle, first: str = 'a "tench", größer') -> Bundle:
    manifest = {k: v for k, v in plain.manifest.items() if k not in ("files", "manifest_sha256")}
    labels = [first, *(f"class {index}" for index in range(1, plain.num_classes))]
    out = plain.path.with_name(f"labelled-{uuid4().hex}")
    return write_bundle(out, {"model.onnx": plain.model_path}, manifest, labels=labels)


def images_for(bundle: Bundle, count: int = 5) -> np.ndarray[Any, Any]:
    size = bundle.preprocessing.image_size
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)


def test_the_configuration_says_what_the_manifest_says(bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path, "net")
    config = config_at(tmp_path / "net")
    assert packed.validated
    size = bundle.preprocessing.image_size
    assert (config.name, config.backend, config.max_batch_size) == ("net", "onnxruntime", 64)
    (images,) = config.input
    (logits,) = config.output
    assert (images.name, images.data_type, list(images.dims)) == ("images", 11, [3, size, size])
    assert (logits.name, logits.data_type) == ("logits", 11)
    assert list(logits.dims) == [bundle.num_classes]
    assert logits.label_filename == "labels.txt"
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 32, 64]
    assert config.version_policy.latest.num_versions == 1
    assert [(group.count, group.kind) for group in config.instance_group] == [(1, 0)]
    assert sorted(warmup.batch_size for warmup in config.model_warmup) == [1, 8]
    assert list(config.model_warmup[0].inputs["images"].dims) == [3, size, size]
    values = {key: value.string_value for key, value in config.parameters.items()}
    assert values["mimiq_manifest_sha256"] == bundle.digest
    assert values["mimiq_precision"] == "w8a8"
    names = sorted(path.name for path in (tmp_path / "net").iterdir())
    assert names == ["1", "config.pbtxt", "labels.txt", "model-settings.json"]
    assert (tmp_path / "net/1/model.onnx").read_bytes() == bundle.model_path.read_bytes()
    assert (tmp_path / "net/labels.txt").read_text("utf-8").splitlines() == list(
        bundle.labels or ()
    )


def test_options_reach_the_configuration(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path, "net", PackOptions(instances=3, device="gpu", max_batch=16))
    config = config_at(tmp_path / "net")
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, group.KIND_GPU)
    assert list(config.dynamic_batching.preferred_batch_size) == [8, 16]
    (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
    assert accelerator.name == "tensorrt"
    assert accelerator.parameters["precision_mode"] == "INT8"
    pack(bundle, tmp_path, "cpu", PackOptions(device="cpu", accelerator="openvino", max_batch=1))
    config = config_at(tmp_path / "cpu")
    (accelerator,) = config.optimization.execution_accelerators.cpu_execution_accelerator
    assert accelerator.name == "openvino"
    assert list(config.dynamic_batching.preferred_batch_size) == [1]
    assert [warmup.batch_size for warmup in config.model_warmup] == [1]


def test_no_bundle_is_served_by_the_engine_of_another(bundle: Bundle, tmp_path: Path) -> None:
    """ONNX Runtime finds a cached engine by the graph's names, which are the same in both."""
    paths = []
    for each in (bundle, add_files(labelled(bundle), updates={"seed": 7}), bundle):
        pack(each, tmp_path, "net", PackOptions(device="gpu"))
        config = config_at(tmp_path / "net")
        (accelerator,) = config.optimization.execution_accelerators.gpu_execution_accelerator
        paths.append(accelerator.parameters["trt_engine_cache_path"])
    assert paths[0] == f"/tmp/mimiq-net-{bundle.digest[:16]}"
    assert paths[0] == paths[2] != paths[1]


def test_a_second_pack_adds_a_version_and_touches_none(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path, "net")
    first = {path: path.read_bytes() for path in (tmp_path / "net/1").iterdir()}
    again = add_files(labelled(bundle), updates={"seed": 7})
    packed = pack(again, tmp_path, "net")
    assert packed.version == 2
    assert versions_of(tmp_path / "net") == [1, 2]
    assert {path: path.read_bytes() for path in (tmp_path / "net/1").iterdir()} == first
    parameters = config_at(tmp_path / "net").parameters
    assert parameters["mimiq_manifest_sha256"].string_value == again.digest
    assert parameters["mimiq_manifest_sha256_v1"].string_value == bundle.digest
    assert parameters["mimiq_manifest_sha256_v2"].string_value == again.digest
    assert PackedRecord.read(tmp_path / "net/2/mimiq.json") == packed.record
    assert not [path for path in (tmp_path / "net").rglob("*") if path.name.endswith(".tmp")]


def test_a_different_model_under_the_same_name_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path, "net")
    with pytest.raises(BadInput, match="holds another model: its inputs are images FP32"):
        pack(bundle, tmp_path, "net", PackOptions(preprocess=True))
    with pytest.raises(BadInput, match="its labels differ"):
        pack(labelled(bundle, "another first"), tmp_path, "net")
    assert versions_of(tmp_path / "net") == [1]


def test_what_is_not_ours_is_left_alone(bundle: Bundle, tmp_path: Path) -> None:
    (tmp_path / "theirs/1").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("x")
    for name in ("theirs", "other"):
        with pytest.raises(BadInput, match="cannot take this model"):
            pack(bundle, tmp_path, name)
    with pytest.raises(BadInput, match="cannot name a model"):
        pack(bundle, tmp_path, "../out")
    pack(bundle, tmp_path, "net")
    config = tmp_path / "net/config.pbtxt"
    config.write_text(config.read_text() + "# mine\n")
    with pytest.raises(BadInput, match="edited by hand"):
        pack(bundle, tmp_path, "net")
    (tmp_path / "net/labels.txt").unlink()
    config.unlink()
    assert pack(bundle, tmp_path, "net").version == 2  # what was lost is written again
    assert (tmp_path / "net/labels.txt").is_file()


def _no_space(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_failure_leaves_nothing(bundle: Bundle, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("mimiq.export.triton.plan.shutil.copyfile", _no_space)
    with pytest.raises(Exception, match="disk is full"):
        pack(bundle, tmp_path / "repo", "net")
    assert not (tmp_path / "repo/net").exists()


def content(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize("file", ["labels.txt", "model-settings.json", "config.pbtxt"])
@pytest.mark.parametrize("before", [0, 1])
def test_a_failure_beside_the_version_takes_it_back(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, file: str, before: int
) -> None:
    """The version is in its place by then: the next pack of the same thing finds it gone."""
    for _ in range(before):
        pack(bundle, tmp_path, "net")
    expected, replace = content(tmp_path), os.replace

    def fails(source: Any, target: Any) -> None:
        if Path(target).name == file:
            assert (tmp_path / f"net/{before + 1}/model.onnx").is_file()
            raise OSError(28, "No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("mimiq.export.triton.repository.os.replace", fails)
        with pytest.raises(EnvironmentLacks, match="disk is full"):
            pack(bundle, tmp_path, "net")
    assert content(tmp_path) == expected
    assert (tmp_path / "net").exists() == bool(before)
    assert pack(bundle, tmp_path, "net").version == before + 1


def test_an_interruption_after_the_last_file_loses_nothing(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any
) -> None:
    replace = os.replace

    def interrupted(source: Any, target: Any) -> None:
        replace(source, target)
        if Path(target).name == "config.pbtxt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("mimiq.export.triton.repository.os.replace", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pack(bundle, tmp_path, "net")
    assert versions_of(tmp_path / "net") == [1]
    assert pack(bundle, tmp_path, "net").version == 2


def test_a_pack_that_was_killed_is_no_edit_by_hand(bundle: Bundle, tmp_path: Path) -> None:
    pack(bundle, tmp_path, "net")
    config = tmp_path / "net/config.pbtxt"
    older = config.read_bytes()
    pack(bundle, tmp_path, "net")
    config.write_bytes(older)  # as it is between the version's move and the configuration's
    assert pack(bundle, tmp_path, "net").version == 3


@pytest.mark.parametrize("loser", ["first", "second"])
def test_two_first_packs_at_once(
    bundle: Bundle, tmp_path: Path, monkeypatch: Any, loser: str
) -> None:
    """The second packs while the first, which has seen no model there, makes its folder."""
    other, mkdir, calls = labelled(bundle, "another first"), Path.mkdir, []

    def second() -> None:
        with monkeypatch.context() as patch:
            if loser == "second":
                patch.setattr("mimiq.export.triton.plan.shutil.copyfile", _no_space)
                with pytest.raises(EnvironmentLacks, match="disk is full"):
                    pack(other, tmp_path, "net")
            else:
                pack(other, tmp_path, "net")

    def hooked(path: Path, *arguments: Any, **options: Any) -> None:
        calls.append(path)
        if len(calls) == 1:
            second()
        mkdir(path, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "mkdir", hooked)
        if loser == "first":
            with pytest.raises(BadInput, match="just been written by somebody else"):
                pack(bundle, tmp_path, "net")
        else:
            pack(bundle, tmp_path, "net")
    winner = bundle if loser == "second" else other
    names = sorted(path.name for path in (tmp_path / "net").iterdir())
    assert names == ["1", "config.pbtxt", "labels.txt", "model-settings.json"]
    labels = (tmp_path / "net/labels.txt").read_text("utf-8").splitlines()
    assert labels == list(winner.labels or ())
    with PackedModel(tmp_path / "net", device="cpu") as model:
        assert model.record.manifest_sha256 == winner.digest
    assert pack(winner, tmp_path, "net").version == 2


def test_pixels_give_the_same_bits(bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path, "net", PackOptions(preprocess=True))
    size = bundle.preprocessing.image_size
    assert packed.record.inputs == (Tensor("pixels", "UINT8", (size, size, 3)),)
    pixels = images_for(bundle)
    with PackedModel(packed.folder, device="cpu") as model, open_bundle(bundle, "ort") as session:
        np.testing.assert_array_equal(model.run({"pixels": pixels})["logits"], session.run(pixels))
        with pytest.raises(BadInput, match="uint8"):
            model.run({"pixels": pixels[:, :-1]})  # nothing is resized silently


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


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text.replace('"sha256"', '"sha"'), "does not describe a packed model"),
        (lambda text: text[:-20], "is not valid JSON"),
        (lambda text: text.replace("model.onnx", "../model.onnx"), "is a TensorRT engine"),
    ],
)
def test_a_record_edited_by_hand(bundle: Bundle, tmp_path: Path, damage: Any, why: str) -> None:
    packed = pack(bundle, tmp_path, "net")
    record = packed.folder / "1/mimiq.json"
    record.write_text(damage(record.read_text()))
    with pytest.raises((BadInput, UnsupportedTarget), match=why):
        PackedModel(packed.folder, device="cpu")


@pytest.mark.parametrize("top_k", [1, 3])
def test_top_k_orders_the_softmax_and_names_the_classes(
    bundle: Bundle, tmp_path: Path, top_k: int
) -> None:
    packed = pack(bundle, tmp_path, "net", PackOptions(preprocess=True, top_k=top_k))
    pixels = images_for(bundle)
    with PackedModel(packed.folder, device="cpu") as model:
        result = model.run({"pixels": pixels})
    logits = result["logits"].astype(np.float64)
    softmax = np.exp(logits - logits.max(1, keepdims=True))
    softmax /= softmax.sum(1, keepdims=True)
    order = np.argsort(-softmax, axis=1, kind="stable")[:, :top_k]
    np.testing.assert_array_equal(result["top_classes"], order)
    np.testing.assert_allclose(
        result["top_probabilities"], np.take_along_axis(softmax, order, 1), rtol=1e-4
    )
    assert bundle.labels is not None
    assert result["top_labels"].tolist() == [[bundle.labels[i] for i in row] for row in order]
    outputs = {output.name: output for output in config_at(packed.folder).output}
    assert list(outputs["top_labels"].dims) == [top_k]
    assert outputs["top_labels"].data_type == 13  # TYPE_STRING
    assert outputs["logits"].label_filename == "labels.txt"


def test_more_classes_than_there_are(bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="`top_k=9999` is out of range"):
        pack(bundle, tmp_path, "net", PackOptions(top_k=9999))
    assert list(tmp_path.iterdir()) == []


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


@given(text=st.text(st.characters(blacklist_categories=["Cs"])))
@settings(max_examples=60, deadline=None)
def test_any_text_survives_the_schema(text: str) -> None:
    config = ModelConfig(
        name="net",
        backend="onnxruntime",
        max_batch_size=1,
        inputs=(Tensor("images", "FP32", (3, 8, 8)),),
        outputs=(Tensor("logits", "FP32", (10,)),),
        labelled=None,
        preferred_batch_sizes=(1,),
        queue_delay_us=1,
        instances=1,
        kind="KIND_AUTO",
        warmup_batches=(1,),
        accelerator=None,
        accelerator_parameters={},
        parameters={"model": text},
    )
    assert parsed(config_text(config)).parameters["model"].string_value == text


def test_the_schema_refuses_nonsense() -> None:
    pytest.importorskip("tritonclient.grpc")
    with pytest.raises(BadInput, match="schema refuses"):
        check_config("no_such_field: 1\n")


def mimiq(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_the_command(bundle: Bundle, tmp_path: Path) -> None:
    answer = mimiq("pack", bundle.path, "--triton", tmp_path, "--name", "net", "--cpu", "--json")
    assert answer.exit_code == 0, answer.stderr
    result = json.loads(answer.stdout)
    assert (result["name"], result["version"]) == ("net", 1)
    answer = mimiq("pack", bundle.path, "--triton", tmp_path, "--name", "net", "--cpu")
    assert answer.exit_code == 0, answer.stderr
    assert "net, version 2" in answer.stdout
    answer = mimiq("pack", tmp_path / "nothing", "--triton", tmp_path)
    assert answer.exit_code == 2
    assert "There is no bundle" in answer.stderr
    answer = mimiq("pack", bundle.path, "--triton", tmp_path, "--accelerator", "tensorrt", "--cpu")
    assert answer.exit_code == 2
    assert "does not run on the cpu" in answer.stderr


def _flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda folder: _flip(folder / "model.onnx"), "size or hash differ"),
        (lambda folder: (folder / "labels.txt").unlink(), "is missing: the manifest lists it"),
        (
            lambda folder: (folder / "manifest.json").write_text(
                (folder / "manifest.json").read_text().replace("w8a8", "w4a8")
            ),
            "was edited: its content does not match its own digest",
        ),
    ],
    ids=["corrupted model", "missing labels", "manifest edited"],
)
@pytest.mark.parametrize("command", ["pack", "check"])
def test_a_damaged_bundle_is_one_clear_error(
    bundle: Bundle, tmp_path: Path, damage: Any, why: str, command: str
) -> None:
    broken = tmp_path / "broken.mimiq"
    shutil.copytree(bundle.path, broken)
    damage(broken)
    repository = tmp_path / "models"
    if command == "pack":
        answer = mimiq("pack", broken, "--triton", repository)
    else:  # before anything is asked of the server
        answer = mimiq("check", "--url", "127.0.0.1:1", "--model", "m", "--bundle", broken)
    assert answer.exit_code == 2
    assert why in " ".join(answer.stderr.split())
    assert answer.stderr.count("Error") <= 1
    assert "Traceback" not in answer.stderr
    assert answer.stdout == ""
    assert not repository.exists()
