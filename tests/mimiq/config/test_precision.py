"""Precision values: parsing, labels, overrides and JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mimiq.config.precision import (
    FLOAT,
    FP32,
    Block,
    LayerPrecision,
    PerChannel,
    PerTensor,
    Precision,
    Roles,
    from_bits,
    int4,
    int8,
    largest_block,
    parse_bits,
    weight_only,
)
from mimiq.errors import BadInput

_bits = st.integers(2, 8)
_layers = st.one_of(
    st.just(FLOAT),
    st.builds(LayerPrecision, _bits, st.sampled_from([PerTensor(), PerChannel()]), _bits),
    st.builds(LayerPrecision, _bits, st.builds(Block, st.sampled_from([32, 64, 128])), st.none()),
)


@given(
    st.builds(
        Precision,
        _layers,
        st.one_of(st.none(), _bits),
        st.lists(st.tuples(st.text(min_size=1), _layers), max_size=3).map(tuple),
        st.lists(st.tuples(st.text(min_size=1), st.one_of(st.none(), _bits)), max_size=3).map(
            tuple
        ),
    )
)
def test_json_round_trip(precision: Precision) -> None:
    assert Precision.from_json(precision.to_json()) == precision


@pytest.mark.parametrize(
    ("text", "expected"), [("w4a8", (4, 8)), ("W8A8", (8, 8)), ("w4a16", (4, None))]
)
def test_parse_bits(text: str, expected: tuple[int, int | None]) -> None:
    assert parse_bits(text) == expected


@pytest.mark.parametrize("text", ["w4", "w9a8", "w4a1", "w1a8", "a8w8", "", "w4a8b32"])
def test_parse_bits_refuses(text: str) -> None:
    with pytest.raises(BadInput):
        parse_bits(text)


def test_labels() -> None:
    assert [p.label for p in (int8(), int4(), weight_only(4, 64), from_bits(4, 4))] == [
        "w8a8",
        "w4a8",
        "w4a16-b64",
        "w4a4",
    ]


ROLES = Roles(("stem.conv",), ("head*",), ("stem.first",))


def test_patch_embedding_keeps_8_bits_and_a_float_input() -> None:
    for precision in (int8(), int4(), weight_only(4, 32), from_bits(4, 4)):
        assert precision.placed(ROLES).of("stem.conv") == LayerPrecision(8, PerChannel(), None)


def test_the_classifier_keeps_8_bits_unless_all_are_to_be_alike() -> None:
    def head(precision: Precision) -> LayerPrecision:
        found = precision.placed(ROLES)
        assert found.of("head_dist") == found.of("head")
        return found.of("head")

    assert head(int4()) == LayerPrecision(8, PerChannel(), 8)
    assert head(from_bits(4, 4)) == LayerPrecision(8, PerChannel(), 8)
    assert head(from_bits(4, None)) == LayerPrecision(8, PerChannel(), None)
    assert head(weight_only(4, 32)) == LayerPrecision(8, PerChannel(), None)
    assert head(int8()) == int8().linear
    for alike in (from_bits(4, 4, uniform=True), weight_only(4, 32, uniform=True)):
        assert head(alike) == alike.linear


def test_a_rule_by_role_is_never_passed_over() -> None:
    with pytest.raises(BadInput, match="not placed in a network"):
        int8().of("blocks.0.mlp.fc1")
    named = int8().with_override("blocks.*", FLOAT)
    assert named.of("blocks.0.mlp.fc1") == FLOAT  # whatever its role is
    assert FP32.of("blocks.0.mlp.fc1") == FLOAT


def test_placing_twice_is_placing_once() -> None:
    placed = int4().placed(ROLES)
    assert placed.of("stem.first") == FLOAT
    assert placed.placed(ROLES) is placed
    assert Precision.from_json(placed.to_json()) == placed


def test_first_matching_override_wins() -> None:
    precision = int4().placed(ROLES).with_override("blocks.*.mlp.fc2", LayerPrecision(8))
    precision = precision.with_override("blocks.3.mlp.fc2", FLOAT)
    assert precision.of("blocks.3.mlp.fc2") == FLOAT
    assert precision.of("blocks.4.mlp.fc2").weight_bits == 8
    assert precision.of("blocks.4.mlp.fc1").weight_bits == 4


def test_attention_of_one_block_has_bits_of_its_own() -> None:
    precision = from_bits(4, 4).with_attention("blocks.*.attn", None)
    precision = precision.with_attention("blocks.3.attn", 8)
    assert precision.attention_of("blocks.3.attn") == 8
    assert precision.attention_of("blocks.30.attn") is None
    assert from_bits(4, 4).attention_of("blocks.3.attn") == 4
    assert "attention_overrides" not in from_bits(4, 4).to_json()


def test_largest_block() -> None:
    assert largest_block([768, 3072]) == 128
    assert largest_block([192, 768]) == 64
    assert largest_block([96, 384]) == 32
    assert largest_block([128, 256]) == 64  # a single block a row is none
    for sizes in ([192, 100], [32, 64]):
        with pytest.raises(BadInput, match="divides"):
            largest_block(sizes)


def test_blocks_need_float_activations() -> None:
    with pytest.raises(BadInput, match="no target"):
        LayerPrecision(4, Block(32), 8)
