"""What ``summarize`` counts."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from click.testing import CliRunner
from export_networks import METADATA, PRECISIONS, Exported
from runtime_models import write_linear_classifier

from mimiq.cli import main
from mimiq.errors import BadInput
from mimiq.export import summarize, to_fp16, to_int8_carrier
from mimiq.export.graph import load, save
from mimiq.export.rules import check

Export = Callable[[str], Exported]

LINEARS = {
    "fp32": "MatMul float × float",
    "w8a8": "MatMul int8 per channel × int8",
    "w4a8": "MatMul int4 per channel × int8",
    "w4a16-b32": "MatMul int4 block 32 × float",
    "w4a16": "MatMul int4 per channel × float",
    "w4a4": "MatMul int4 per channel × int8",
}
CLASSIFIER = {
    "w4a8": "MatMul int8 per channel × int8",
    "w4a16-b32": "MatMul int8 per channel × float",
    "w4a16": "MatMul int8 per channel × float",
    "w4a4": "MatMul int8 per channel × int8",
}


@pytest.mark.parametrize("label", PRECISIONS)
def test_layers_by_type(exported: Export, label: str) -> None:
    layers = summarize(exported(label).path)["layers"]
    classifier = CLASSIFIER.get(label, LINEARS[label])
    found = Counter({LINEARS[label]: 8}) + Counter({classifier: 1})
    assert {kind: layers.pop(kind) for kind in found} == found
    (convolution,) = layers.items()
    assert convolution == (
        ("Conv float × float", 1) if label == "fp32" else ("Conv int8 per channel × float", 1)
    )


def test_attention_and_sizes(exported: Export) -> None:
    path = exported("w8a8").path
    summary = summarize(path)
    assert summary["attention"] == {"quantised": 2}
    assert summarize(exported("w4a16").path)["attention"] == {"float": 2}
    initializers = onnx.load(path).graph.initializer
    int8 = sum(len(t.raw_data) for t in initializers if t.data_type == onnx.TensorProto.INT8)
    zero_points = sum(t.name.endswith("zero_point") for t in initializers)
    assert summary["weight_bytes"] == {"int8": int8 - zero_points}
    assert summary["initializer_bytes"] == sum(len(t.raw_data) for t in initializers)
    assert summary["file_bytes"] == path.stat().st_size > summary["initializer_bytes"]
    assert summary["scale_bytes"] == 4 * (64 + 2 * (192 + 64 + 256 + 64) + 10)
    assert (summary["opset"], summary["ir_version"]) == (21, 10)
    assert summary["metadata"] == METADATA
    assert summary["producer"].startswith("mimiq ")


def test_models_in_memory_have_no_file_size(exported: Export) -> None:
    assert summarize(load(exported("w8a8").path))["file_bytes"] is None


def test_summaries_are_json(exported: Export) -> None:
    assert json.loads(json.dumps(summarize(exported("w4a4").path)))["opset"] == 21


def test_carrier_file_holds_the_same_layers_in_int8(exported: Export, tmp_path: Path) -> None:
    path = to_int8_carrier(exported("w4a8").path, tmp_path / "carrier.onnx")
    assert summarize(path)["layers"][LINEARS["w8a8"]] == 9


def test_half_form_counts_the_same_layers(exported: Export, tmp_path: Path) -> None:
    summary = summarize(to_fp16(exported("w8a8").path, tmp_path / "half.onnx"))
    assert summary["layers"] == {
        "Conv float16 × float16": 1,
        "MatMul int8 per channel, split × int8": 9,
    }
    assert summary["attention"] == {"quantised": 2}


def test_a_joined_projection_that_cannot_be_split_says_why(
    exported: Export, tmp_path: Path
) -> None:
    model = load(exported("w8a8").path)
    assert summarize(model)["not_split"] == {}
    (first, *_) = (node for node in model.graph if node.name == "blocks.0.attn.qkv/MatMul")
    (bias,) = first.outputs[0].consumers()
    seen = ir.node("Relu", [bias.outputs[0]])
    model.graph.append(seen)
    model.graph.outputs.append(seen.outputs[0])
    assert summarize(model)["not_split"] == {
        "blocks.0.attn.qkv/MatMul": "more than a Reshape to (B, T, 3, H, d) reads it"
    }
    file = save(model, tmp_path / "joined.onnx")
    shown = " ".join(CliRunner().invoke(main, ["inspect", str(file)]).stdout.split())
    assert "blocks.0.attn.qkv/MatMul is not split into q, k and v, for more than" in shown


def test_no_model_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="does not exist"):
        summarize(tmp_path / "absent.onnx")
    (tmp_path / "empty.onnx").touch()
    with pytest.raises(BadInput, match="holds no ONNX model"):
        summarize(tmp_path / "empty.onnx")


def without_inputs(model: onnx.ModelProto) -> None:
    for node in model.graph.node:
        del node.input[:]


def constants_of_text(model: onnx.ModelProto) -> None:
    for tensor in model.graph.initializer:
        tensor.data_type = onnx.TensorProto.STRING


def reading_itself(model: onnx.ModelProto) -> None:
    node = model.graph.node[-1]
    node.input[0] = node.output[0]


@pytest.mark.parametrize("spoil", [without_inputs, constants_of_text, reading_itself])
def test_a_malformed_graph_is_one_error(
    tmp_path: Path, spoil: Callable[[onnx.ModelProto], None]
) -> None:
    file = write_linear_classifier(tmp_path / "linear.onnx", quantized=True)
    model = onnx.load(file)
    spoil(model)
    file.write_bytes(model.SerializeToString())
    for read in (summarize, lambda path: check(path, "rtx")):
        with pytest.raises(BadInput, match="is not a readable ONNX model"):
            read(file)
    done = CliRunner().invoke(main, ["inspect", str(file)])
    assert done.exit_code == BadInput.exit_code, done.output


def test_long_metadata_is_cut_on_a_terminal_alone(tmp_path: Path) -> None:
    file = write_linear_classifier(tmp_path / "linear.onnx", quantized=True)
    model = onnx.load(file)
    value = "some words " * 30_000
    onnx.helper.set_model_props(model, {"about": value})
    onnx.save(model, file)
    said = CliRunner().invoke(main, ["inspect", str(file)]).stdout
    assert "some words" in said
    assert len(said) < 20_000
    told = json.loads(CliRunner().invoke(main, ["inspect", str(file), "--json"]).stdout)
    assert told["graph"]["metadata"]["about"] == value
