"""Sensitivity: the layer that was broken is found, and looking at it changes nothing."""

from __future__ import annotations

import copy

import pytest
import torch
from networks import as_loaded
from timm.models.vision_transformer import VisionTransformer

from mimiq.config.precision import (
    FLOAT,
    FP32,
    Block,
    LayerPrecision,
    PerChannel,
    PerTensor,
    Precision,
    from_bits,
    int4,
    int8,
    weight_only,
)
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, quantizable_layers
from mimiq.quantize.fake_quant import Quantizer
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.quantize.layers import quant_layers
from mimiq.stages.sensitivity import Ranking, _Bench, rank
from mimiq.stages.units import candidates, raise_units, raised_layer, stored_bytes, units_of


def memory_bytes(module: torch.nn.Module) -> int:
    """Bytes of the weights as they are stored, scales included."""
    total = 0
    for layer in quant_layers(module).values():
        quantizer = layer.weight_quantizer
        assert isinstance(quantizer, Quantizer)
        bits = 4 if quantizer.grid.qmax <= 7 else 8
        total += layer.weight.numel() * bits // 8 + quantizer.log_scale.numel() * 4
    return total


PLAIN = RangeRecipe(
    "minmax", rotate=False, migrate=False, refit=False, outliers=False, rounding="nearest"
)
BROKEN = "blocks.1.mlp.fc1"


def small(outlier: float) -> LoadedModel:
    """Three blocks, two heads of 16, 17 tokens, 10 classes; one layer may have large outliers."""
    torch.manual_seed(0)
    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, num_classes=10
    ).eval()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, torch.nn.Linear):
                layer.weight.normal_(0, 0.15)
        network.get_submodule(BROKEN).weight[:, 5] *= outlier
    return as_loaded(network)


def placed(precision: Precision) -> Precision:
    model = small(outlier=1)
    return precision.placed(model.family.roles(model.module))


@pytest.fixture(scope="module")
def model() -> LoadedModel:
    return small(outlier=1)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    coarse = torch.rand(20, 3, 6, 6, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.interpolate(coarse, size=32, mode="bilinear") * 2 - 1


@pytest.fixture(scope="module")
def broken(images: torch.Tensor) -> Ranking:
    """One layer at 2 bits, whose scales reach the outlier of each row and leave nothing else."""
    precision = placed(int8()).with_override(BROKEN, LayerPrecision(2, PerChannel(), 8))
    return rank(small(outlier=30), precision, images, images, PLAIN)


def test_the_broken_layer_ranks_first(broken: Ranking) -> None:
    first, second = broken.units[:2]
    assert (first.unit.name, first.unit.now, first.unit.raised) == (BROKEN, "w2a8", "w8a8")
    assert first.gain > 0.7 * broken.loss
    assert first.gain > 10 * second.gain
    # It is the only unit below 8 bits, so raising all that may be raised first is raising it.
    assert broken.raised_loss == pytest.approx(broken.loss - first.gain, abs=0.3 * broken.loss)
    gains = [found.gain for found in broken.units]
    assert gains == sorted(gains, reverse=True)


def test_a_broken_attention_is_found_too(model: LoadedModel, images: torch.Tensor) -> None:
    ranking = rank(model, placed(int8()).with_attention("blocks.2.attn", 2), images, images, PLAIN)
    first = ranking.units[0].unit
    assert (first.name, first.kind) == ("blocks.2.attn", "attention")
    assert (first.now, first.raised) == ("a2", "a8")


def test_it_is_the_same_every_time_and_leaves_the_model_alone(
    images: torch.Tensor, broken: Ranking
) -> None:
    model = small(outlier=30)
    before = copy.deepcopy(model.module.state_dict())
    told: list[tuple[int, str]] = []
    precision = placed(int8()).with_override(BROKEN, LayerPrecision(2, PerChannel(), 8))
    again = rank(model, precision, images, images, PLAIN, lambda *step: told.append(step))
    assert [(f.unit, f.gain) for f in again.units] == [(f.unit, f.gain) for f in broken.units]
    after = model.module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1][0] == len(broken.units)


@torch.no_grad()
def test_starting_at_a_step_gives_the_loss_of_the_whole(
    model: LoadedModel, images: torch.Tensor
) -> None:
    """With real ranges: parts of three networks fit together, whose outliers moved once."""
    units = units_of(model, placed(from_bits(4, 4)))
    bench = _Bench(
        model, placed(from_bits(4, 4)), units, images, images, RangeRecipe(), lambda _: None
    )
    assert bench.loss({}) == pytest.approx(0, abs=1e-6)
    starts = {}
    for unit, step in bench.by_step():
        starts[unit.name] = step
        expected = bench.loss({unit: bench.now})
        assert bench.loss({unit: bench.now}, step) == pytest.approx(expected, rel=1e-3, abs=1e-6)
    assert bench.loss({}) == pytest.approx(0, abs=1e-6)
    assert starts["blocks.2.attn"] == starts["blocks.2.mlp.fc2"] == 3
    assert starts["patch_embed.proj"] == starts["head"] == 0


@torch.no_grad()
def test_all_units_together_are_the_quantised_network(
    model: LoadedModel, images: torch.Tensor
) -> None:
    units = units_of(model, placed(from_bits(4, 4)))
    bench = _Bench(model, placed(from_bits(4, 4)), units, images, images, PLAIN, lambda _: None)
    quantized = quantize(model, placed(from_bits(4, 4)), images, PLAIN).module
    expected = model.module(images).log_softmax(-1)
    found = quantized(images).log_softmax(-1)
    divergence = float(torch.nn.functional.kl_div(
        found, expected, reduction="batchmean", log_target=True
    ))  # fmt: skip
    assert bench.loss(dict.fromkeys(units, bench.now)) == pytest.approx(divergence, rel=1e-3)


def test_everything_in_floating_point_is_the_original(
    model: LoadedModel, images: torch.Tensor
) -> None:
    assert rank(model, placed(int8()), images, images, RangeRecipe()).raised_loss == pytest.approx(
        0, abs=1e-6
    )


def test_nothing_quantised(model: LoadedModel, images: torch.Tensor) -> None:
    with pytest.raises(BadInput, match="Nothing in this network is quantised"):
        rank(model, FP32, images, images, PLAIN)


def test_json_round_trip(broken: Ranking) -> None:
    assert Ranking.from_json(broken.to_json()) == broken


class TestUnits:
    def test_all_layers_and_attentions(self, model: LoadedModel) -> None:
        units = {unit.name: unit for unit in units_of(model, placed(int4()))}
        assert len(units) == 3 * 5 + 2
        assert [units["head"].now, units["head"].raised] == ["w8a8", "float"]
        fc1 = units["blocks.0.mlp.fc1"]
        assert [fc1.now, fc1.raised] == ["w4a8", "w8a8"]
        assert [units["patch_embed.proj"].now, units["patch_embed.proj"].raised] == [
            *("w8a16", "float")
        ]
        assert [units["blocks.0.attn"].now, units["blocks.0.attn"].raised] == ["a8", "float"]
        assert {unit.raised for unit in candidates(units.values())} == {"w8a8"}
        assert len(candidates(units_of(model, placed(int8())))) == 17
        floats = units_of(model, placed(weight_only(4, 32)))
        assert "blocks.0.attn" not in {unit.name for unit in floats}

    def test_multiplications(self, model: LoadedModel) -> None:
        units = {unit.name: unit for unit in units_of(model, placed(int8()))}
        assert units["blocks.0.mlp.fc1"].products == 17 * 32 * 128
        assert units["head"].products == 32 * 10
        assert units["patch_embed.proj"].products == 16 * 32 * 3 * 8 * 8
        assert units["blocks.0.attn"].products == 2 * 2 * 17 * 17 * 16

    def test_bytes_are_those_of_the_quantised_network(
        self, model: LoadedModel, images: torch.Tensor
    ) -> None:
        for precision in (placed(int4()), placed(weight_only(4, 32))):
            units = candidates(units_of(model, precision))
            before = quantize(model, precision, images[:2], PLAIN).module
            after = quantize(model, raise_units(precision, units), images[:2], PLAIN).module
            extra = sum(unit.extra_bytes for unit in units)
            assert memory_bytes(after) - memory_bytes(before) == extra > 0

    def test_stored_bytes(self) -> None:
        weight = torch.zeros(10, 64)
        assert stored_bytes(weight, FLOAT) == 2560
        assert stored_bytes(weight, LayerPrecision(8)) == 640 + 40
        assert stored_bytes(weight, LayerPrecision(3, PerTensor())) == 320 + 4
        assert stored_bytes(weight, LayerPrecision(4, Block(32), None)) == 320 + 80
        assert stored_bytes(torch.zeros(10, 3, 4, 4), LayerPrecision(4)) == 480 + 40


class TestRaising:
    @pytest.mark.parametrize(
        ("layer", "expected"),
        [
            (LayerPrecision(4, PerTensor(), 8), LayerPrecision(8)),
            (LayerPrecision(8, PerChannel(), 4), LayerPrecision(8)),
            (LayerPrecision(4, Block(64), None), LayerPrecision(8, PerChannel(), None)),
            (LayerPrecision(None, PerChannel(), 4), LayerPrecision(None, PerChannel(), 8)),
            (LayerPrecision(8), FLOAT),
            (LayerPrecision(8, PerChannel(), None), FLOAT),
        ],
    )
    def test_of_a_layer(self, layer: LayerPrecision, expected: LayerPrecision) -> None:
        assert raised_layer(layer) == expected

    def test_of_some_units_leaves_the_others(
        self, model: LoadedModel, images: torch.Tensor
    ) -> None:
        wanted = ("blocks.1.attn", "head")
        base = placed(from_bits(4, 4, uniform=True))
        units = [unit for unit in units_of(model, base) if unit.name in wanted]
        precision = raise_units(base, units)
        assert precision.of("head") == LayerPrecision(8)
        assert precision.of("blocks.0.mlp.fc1") == LayerPrecision(4, PerChannel(), 4)
        module = quantize(model, precision, images, RangeRecipe()).module
        widths = {
            name: point.grid.count
            for name, point in module.named_modules()
            if isinstance(point, Quantizer)
        }
        for point in ("q", "k", "v"):
            assert widths[f"blocks.1.attn.{point}_quantizer"] == 256
            assert widths[f"blocks.0.attn.{point}_quantizer"] == 16
        assert widths["blocks.1.attn.probs_quantizer"] == 128  # INT8's positive half
        assert widths["blocks.1.attn.proj.input_quantizer"] == 16
        assert widths["head.weight_quantizer"] == 255

    def test_attention_alone_has_the_scales_of_a_network_all_of_that_width(
        self, model: LoadedModel, images: torch.Tensor
    ) -> None:
        mixed = (
            placed(from_bits(4, 4))
            .with_attention("blocks.1.attn", 8)
            .with_attention("*.2.attn", None)
        )
        module = quantize(model, mixed, images, PLAIN).module
        alike = quantize(model, placed(from_bits(4, 8)), images, PLAIN).module
        point = "blocks.1.attn.k_quantizer"
        mine, theirs = module.get_submodule(point), alike.get_submodule(point)
        assert isinstance(mine, Quantizer)
        assert isinstance(theirs, Quantizer)
        assert mine.grid == theirs.grid
        assert torch.equal(mine.scale, theirs.scale)
        assert not isinstance(module.get_submodule("blocks.2.attn.k_quantizer"), Quantizer)

    def test_every_layer_is_known_by_its_name(self, model: LoadedModel) -> None:
        names = {unit.name for unit in units_of(model, placed(int8())) if unit.kind == "layer"}
        assert names == set(quantizable_layers(model.module))
