"""The model repository: configuration by Triton's own schema, versions, edited graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from graphs import require_valid
from hypothesis import given, settings
from hypothesis import strategies as st
from packing import config_at, images_for, labelled, parsed

from mimiq.cli import main
from mimiq.errors import BadInput, UnsupportedTarget
from mimiq.export.triton import PackOptions, pack
from mimiq.export.triton.config import ModelConfig, check_config, config_text
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.opening import open_bundle
from mimiq.runtime.serving.packed import PackedModel, PackedRecord, Tensor, versions_of


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


def test_pixels_give_the_same_bits(bundle: Bundle, tmp_path: Path) -> None:
    packed = pack(bundle, tmp_path, "net", PackOptions(preprocess=True))
    size = bundle.preprocessing.image_size
    assert packed.record.inputs == (Tensor("pixels", "UINT8", (size, size, 3)),)
    pixels = images_for(bundle)
    with PackedModel(packed.folder, device="cpu") as model, open_bundle(bundle, "ort") as session:
        np.testing.assert_array_equal(model.run({"pixels": pixels})["logits"], session.run(pixels))
        with pytest.raises(BadInput, match="uint8"):
            model.run({"pixels": pixels[:, :-1]})  # nothing is resized silently


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
    require_valid(packed.folder / "1" / "model.onnx")
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
