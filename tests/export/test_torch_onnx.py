"""The exported graph, run by ONNX Runtime, against the simulated network."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from export_networks import (
    DEIT_T,
    METADATA,
    PRECISIONS,
    Exported,
    distance,
    run_file,
    simulate,
    vit,
)
from graphs import require_valid
from torch import nn

from mimiq.config.precision import int4, int8
from mimiq.errors import BadInput, UnsupportedModel
from mimiq.export import export_onnx, summarize
from mimiq.export.graph import save
from mimiq.quantize.fake_quant import Grid, Quantizer
from mimiq.quantize.layers import QuantLinear

Export = Callable[[str], Exported]


@pytest.mark.parametrize("level", ["ORT_DISABLE_ALL", "ORT_ENABLE_ALL"])
@pytest.mark.parametrize("label", PRECISIONS)
def test_graph_computes_what_the_simulation_computes(
    exported: Export, label: str, level: str
) -> None:
    network = exported(label)
    with torch.no_grad():
        expected = network.module(network.images)
    actual = run_file(network.path, network.images, level)
    # Sums in another order tip single roundings to the next step, never more.
    assert (actual - expected).abs().max() < 0.05 * expected.abs().max()
    assert distance(actual, expected) < 2e-3
    assert (actual.argmax(1) == expected.argmax(1)).float().mean() >= 0.98


def test_embedded_network_predicts_the_same(
    digits: tuple[nn.Module, torch.Tensor], tmp_path: Path
) -> None:
    network, images = digits
    module = simulate(network, int4(), images[:16])
    path = export_onnx(module, 32, tmp_path / "digits.onnx")
    with torch.no_grad():
        expected = module(images)
    actual = run_file(path, images)
    assert torch.equal(actual.argmax(1), expected.argmax(1))
    assert distance(actual, expected) < 1e-2


@pytest.mark.parametrize("label", ["w8a8", "w4a16-b32"])
def test_any_batch_runs(exported: Export, label: str) -> None:
    network = exported(label)
    whole = run_file(network.path, network.images[:8])
    parts = [run_file(network.path, part) for part in (network.images[:1], network.images[1:8])]
    assert (torch.cat(parts) - whole).abs().max() < 0.05 * whole.abs().max()


@pytest.mark.parametrize("label", PRECISIONS)
def test_graph_is_valid_onnx(exported: Export, label: str) -> None:
    model = require_valid(exported(label).path)
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 21)]
    assert model.ir_version == 10
    image, logits = model.graph.input[0], model.graph.output[0]
    assert (image.name, logits.name) == ("images", "logits")
    shape = image.type.tensor_type.shape.dim
    assert shape[0].dim_param == "batch"
    assert [dim.dim_value for dim in shape[1:]] == [3, 32, 32]


@pytest.mark.parametrize("label", PRECISIONS)
def test_layer_norm_and_gelu_stay_whole(exported: Export, label: str) -> None:
    operators = summarize(exported(label).path)["operators"]
    assert operators["LayerNormalization"] == 5  # two a block, one before the head
    assert operators["Gelu"] == 2
    assert operators["Softmax"] == 2
    assert not {"Pow", "Erf", "Gemm", "FakeQuantize", "Cast", "Identity"} & set(operators)


def test_metadata_is_written_and_nothing_of_the_exporting_machine(exported: Export) -> None:
    path = exported("w8a8").path
    model = onnx.load(path)
    assert {entry.key: entry.value for entry in model.metadata_props} == METADATA
    assert model.producer_name == "mimiq"
    content = path.read_bytes()
    assert b"stack_trace" not in content
    assert str(Path(torch.__file__).parent).encode() not in content
    assert str(Path(__file__).parents[2]).encode() not in content


def test_int4_weights_take_half_a_byte(exported: Export) -> None:
    eight, four = (summarize(exported(label).path) for label in ("w8a8", "w4a8"))
    linears = four["weight_bytes"]["int4"]
    assert linears * 2 + four["weight_bytes"]["int8"] == eight["weight_bytes"]["int8"]
    assert eight["file_bytes"] - four["file_bytes"] == pytest.approx(linears, rel=0.01)


def test_export_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    export_onnx(vit(), 32, tmp_path / "model.onnx")
    assert capfd.readouterr() == ("", "")


def test_the_module_is_left_as_it_was(tmp_path: Path) -> None:
    layer = nn.Linear(48, 8)
    network = nn.Sequential(
        nn.Flatten(), QuantLinear(layer, Quantizer(torch.ones(8), Grid(-7, 7), 0))
    )
    export_onnx(network, 4, tmp_path / "model.onnx")
    quantized: Any = network[1]
    assert isinstance(quantized.weight_quantizer, Quantizer)
    assert quantized.weight.requires_grad


def test_int8_grids_need_no_clip_and_narrow_ones_do(exported: Export) -> None:
    assert "Clip" not in summarize(exported("w8a8").path)["operators"]
    names = {node.name for node in onnx.load(exported("w4a4").path).graph.node}
    quantized = {name for name in names if name.endswith("/QuantizeLinear")}
    coarse = {name for name in quantized if name.endswith(".coarse/QuantizeLinear")}
    unclipped = {name for name in quantized if name.replace("QuantizeLinear", "Clip") not in names}
    # Linears; q, k, v and softmax output of two blocks; the classifier's input has eight bits.
    assert len(quantized - coarse) == 9 + 8
    assert len(coarse) == 8 + 8
    assert unclipped == {"head.input_quantizer/QuantizeLinear"}


def test_a_network_without_onnx_form_is_refused(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvalsh(x[:, 0])

    with pytest.raises(UnsupportedModel, match="Strange"):
        export_onnx(Strange(), 4, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_an_old_opset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no INT4"):
        export_onnx(nn.Flatten(), 4, tmp_path / "model.onnx", opset=17)


def test_an_unwritable_folder_is_one_error(exported: Export, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file, and no folder")
    with pytest.raises(BadInput, match="cannot be written"):
        export_onnx(nn.Flatten(), 4, tmp_path / "taken" / "model.onnx")


def test_more_than_two_gigabytes_are_refused(tmp_path: Path) -> None:
    import onnx_ir as ir

    class Huge(ir.Tensor):
        nbytes = 3 * 2**30

    graph = ir.load(str(_tiny(tmp_path)))
    value = next(iter(graph.graph.initializers.values()))
    value.const_value = Huge(np.zeros(1, np.float32))
    with pytest.raises(BadInput, match="less than 2"):
        save(graph, tmp_path / "huge.onnx")


def _tiny(folder: Path) -> Path:
    return export_onnx(nn.Sequential(nn.Flatten(), nn.Linear(48, 2)), 4, folder / "tiny.onnx")


def test_preprocessing_survives_as_json(tmp_path: Path) -> None:
    preprocessing = json.dumps({"image_size": 4, "mean": [0.5, 0.5, 0.5]})
    path = export_onnx(
        nn.Flatten(), 4, tmp_path / "model.onnx", metadata={"preprocessing": preprocessing}
    )
    assert json.loads(summarize(path)["metadata"]["preprocessing"])["image_size"] == 4


def test_activation_grids_of_every_width_agree(tmp_path: Path) -> None:
    """2 to 8 bits, symmetric and shifted windows, behind a GELU and alone."""
    from mimiq.quantize.fake_quant import FrozenQuantizer

    grids = [Grid.signed(bits) for bits in range(2, 9)]
    grids += [Grid.shifted(bits, low) for bits, low in ((4, -1), (4, 0), (8, -10), (7, -100))]

    class Bank(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.raw = nn.ModuleList(
                FrozenQuantizer(Quantizer(torch.tensor(2.0 / (g.qmax - g.qmin)), g)) for g in grids
            )
            self.gelu = nn.ModuleList(
                FrozenQuantizer(Quantizer(torch.tensor(2.0 / (g.qmax - g.qmin)), g)) for g in grids
            )

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.gelu(x)
            return torch.cat([q(x) for q in self.raw] + [q(y) for q in self.gelu], 1)

    bank = Bank()
    path = export_onnx(bank, 8, tmp_path / "bank.onnx")
    torch.manual_seed(0)
    images = torch.randn(4, 3, 8, 8) * 3
    expected, actual = bank(images), run_file(path, images, "ORT_DISABLE_ALL")
    # GELU's last bits differ between libraries, so single values may round the other way.
    assert ((actual - expected).abs() > 1e-6).float().mean() < 1e-3


@pytest.mark.slow
@pytest.mark.skipif(not DEIT_T.exists(), reason="../shared/weights is absent")
@pytest.mark.parametrize(("label", "depth"), [("w8a8", 12), ("w4a16-b32", 3)])
def test_deit_tiny_exports_and_agrees(label: str, depth: int, tmp_path: Path) -> None:
    from mimiq.models import load_model

    model = load_model("deit_t", weights=DEIT_T)
    blocks: Any = model.module.blocks
    model.module.blocks = blocks[:depth]
    torch.manual_seed(0)
    images = torch.randn(8, 3, 224, 224)
    module = simulate(model.module, PRECISIONS[label], images)
    path = export_onnx(module, 224, tmp_path / "deit.onnx")
    assert sum(summarize(path)["layers"].values()) == 4 * depth + 2
    with torch.no_grad():
        expected = module(images)
        disturbed = module(images + 1e-6 * torch.randn_like(images))
    # Twelve blocks of roundings amplify any difference: the graph may be as far from the simulation
    # as the simulation is from itself on images that differ by a millionth.
    assert distance(run_file(path, images), expected) < 2 * distance(disturbed, expected) + 1e-4


def test_sizes_other_than_the_embedded_networks(tmp_path: Path) -> None:
    images = torch.randn(3, 3, 32, 32)
    module = simulate(vit(heads=3, head_dim=24, patch=8), int8(), images)
    path = export_onnx(module, 32, tmp_path / "vit.onnx")
    with torch.no_grad():
        expected = module(images)
    assert (run_file(path, images) - expected).abs().max() < 0.05 * expected.abs().max()
