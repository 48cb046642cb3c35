"""What precision is wanted, as values: built once by the command line, read by every stage."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

from mimiq.errors import BadInput


@dataclass(frozen=True)
class PerTensor:
    """One scale for the whole weight."""


@dataclass(frozen=True)
class PerChannel:
    """One scale per output channel."""


@dataclass(frozen=True)
class Block:
    """One scale per output channel and run of ``size`` input channels."""

    size: int


Granularity = PerTensor | PerChannel | Block

BLOCK_SIZES = (128, 64, 32)  # what every target that takes blocked INT4 weights accepts
_BITS = range(2, 9)


@dataclass(frozen=True)
class LayerPrecision:
    """Precision of one Linear or convolution.

    Attributes:
        weight_bits: 2–8, or None for floating-point weights.
        granularity: how many weight scales there are.
        activation_bits: 2–8 for the layer's input, or None for a floating-point input.
    """

    weight_bits: int | None = 8
    granularity: Granularity = PerChannel()
    activation_bits: int | None = 8

    def __post_init__(self) -> None:
        for what, bits in (("weight", self.weight_bits), ("activation", self.activation_bits)):
            if bits is not None and bits not in _BITS:
                raise BadInput(
                    f"{bits} {what} bits are not supported.",
                    "Choose 2 to 8 bits, for example `bits=w4a8`.",
                )
        if isinstance(self.granularity, Block) and self.activation_bits is not None:
            raise BadInput(
                "Block-wise weight scales with quantised activations run on no target.",
                "Use per-channel weights, or `weight_only=True` for blocks.",
            )

    @property
    def is_float(self) -> bool:
        return self.weight_bits is None and self.activation_bits is None

    @property
    def label(self) -> str:
        """Short name for tables: ``float``, ``w8a8``, ``w4a16-b64``."""
        if self.is_float:
            return "float"
        label = f"w{self.weight_bits or 16}a{self.activation_bits or 16}"
        if isinstance(self.granularity, Block):
            label += f"-b{self.granularity.size}"
        return label


FLOAT = LayerPrecision(weight_bits=None, activation_bits=None)


@dataclass(frozen=True)
class Roles:
    """The layers of a network that are quantised otherwise than the rest: patterns of their names.

    Attributes:
        stem: see the image itself.
        classifier: answer.
        unquantized: stay in floating point.
    """

    stem: tuple[str, ...] = ()
    classifier: tuple[str, ...] = ()
    unquantized: tuple[str, ...] = ()


@dataclass(frozen=True)
class Precision:
    """Precision of a whole network.

    What a layer's role decides is an override under the name of the role, which :meth:`placed`
    replaces by the names that a network's family gives.

    Attributes:
        linear: every Linear, unless an override matches its name.
        attention_bits: bits of q, k, v and the softmax output; None for floating-point attention.
        overrides: ``(pattern, precision)`` pairs, shell-style patterns over module names
            (``blocks.*.mlp.fc2``, ``patch_embed.proj``); the first match wins.
        attention_overrides: the same for attention, ``(pattern, bits)`` over the module names of
            the attentions (``blocks.3.attn``).
    """

    linear: LayerPrecision = field(default_factory=LayerPrecision)
    attention_bits: int | None = 8
    overrides: tuple[tuple[str, LayerPrecision], ...] = ()
    attention_overrides: tuple[tuple[str, int | None], ...] = ()

    def placed(self, roles: Roles) -> Precision:
        """A copy with the names of layers in place of roles; itself where that was done before."""
        names = {
            _STEM: roles.stem,
            _CLASSIFIER: roles.classifier,
            _UNQUANTIZED: roles.unquantized,
        }
        overrides = tuple(
            (name, precision)
            for pattern, precision in self.overrides
            for name in names.get(pattern, (pattern,))
        )
        return self if overrides == self.overrides else replace(self, overrides=overrides)

    def of(self, layer: str) -> LayerPrecision:
        """The precision of the layer with this module name.

        Raises:
            BadInput: that depends on the layer's role, and roles are not placed.
        """
        for pattern, precision in self.overrides:
            if pattern in _ROLES:
                raise BadInput(
                    "This precision has rules by role, and is not placed in a network yet.",
                    "Take precision.placed(family.roles(module)) in its place.",
                )
            if fnmatchcase(layer, pattern):
                return precision
        return self.linear

    def with_override(self, pattern: str, precision: LayerPrecision) -> Precision:
        """A copy in which layers matching ``pattern`` get ``precision`` before any other rule."""
        return replace(self, overrides=((pattern, precision), *self.overrides))

    def attention_of(self, attention: str) -> int | None:
        """Bits of q, k, v and the softmax output in the attention with this module name."""
        for pattern, bits in self.attention_overrides:
            if fnmatchcase(attention, pattern):
                return bits
        return self.attention_bits

    def with_attention(self, pattern: str, bits: int | None) -> Precision:
        """A copy in which attentions matching ``pattern`` get ``bits`` before any other rule."""
        return replace(self, attention_overrides=((pattern, bits), *self.attention_overrides))

    @property
    def label(self) -> str:
        """Short name for tables and file names: ``fp32``, ``w8a8``, ``w4a8``, ``w4a16-b64``."""
        return "fp32" if self.linear.is_float else self.linear.label

    @property
    def quantizes_activations(self) -> bool:
        """Whether Linears multiply integers by integers."""
        return self.linear.activation_bits is not None

    @property
    def is_int8(self) -> bool:
        """Eight bits for weights and activations alike, which FP8 can take the place of."""
        return (self.linear.weight_bits, self.linear.activation_bits) == (8, 8)

    def to_json(self) -> dict[str, Any]:
        data: dict[str, Any] = {
            "label": self.label,
            "linear": _layer_to_json(self.linear),
            "attention_bits": self.attention_bits,
            "overrides": [[p, _layer_to_json(layer)] for p, layer in self.overrides],
        }
        # Left out where there are none: what was written without them keeps its hash.
        if self.attention_overrides:
            data["attention_overrides"] = [[p, b] for p, b in self.attention_overrides]
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Precision:
        return Precision(
            linear=_layer_from_json(data["linear"]),
            attention_bits=data["attention_bits"],
            overrides=tuple((p, _layer_from_json(layer)) for p, layer in data["overrides"]),
            attention_overrides=tuple((p, b) for p, b in data.get("attention_overrides", ())),
        )


# Stand for a role's layers until Precision.placed knows their names.
_STEM, _CLASSIFIER, _UNQUANTIZED = _ROLES = ("@stem", "@classifier", "@unquantized")

# The first layer sees the image itself. Its weights stay at 8 bits at least, its input in floating
# point, as in the paper (its "first layer: weights only"); INT4 exists for Linears alone.
_ENDS = (
    (_UNQUANTIZED, FLOAT),
    (_STEM, LayerPrecision(8, PerChannel(), None)),
)

FP32 = Precision(linear=FLOAT, attention_bits=None, overrides=())


def int8() -> Precision:
    """W8A8, attention included."""
    return from_bits(8, 8)


def int4() -> Precision:
    """W4A8: per-channel INT4 weights, INT8 activations and attention."""
    return from_bits(4, 8)


def weight_only(bits: int, block_size: int, *, uniform: bool = False) -> Precision:
    """Block-wise INT weights, floating-point activations; the classifier's as by :func:`from_bits`.

    Args:
        uniform: the classifier like every other Linear.
    """
    linear = LayerPrecision(bits, Block(block_size), None)
    return Precision(linear, None, (*_ENDS, *_classifier(linear, uniform)))


def from_bits(weight_bits: int, activation_bits: int | None, *, uniform: bool = False) -> Precision:
    """wXaY; the classifier's weights and input have 8 bits where the others have fewer.

    Args:
        weight_bits: of every Linear.
        activation_bits: of its input and of attention; None for floating point.
        uniform: the classifier like every other Linear, as in the paper.
    """
    linear = LayerPrecision(weight_bits, PerChannel(), activation_bits)
    return Precision(linear, activation_bits, (*_ENDS, *_classifier(linear, uniform)))


def _classifier(linear: LayerPrecision, uniform: bool) -> tuple[tuple[str, LayerPrecision], ...]:
    # Its errors reach the answer as they are: at four bits the classifier of DeiT-T makes a sixth
    # of the logit error of all weights, with 3 % of them.
    finer = LayerPrecision(8, PerChannel(), None if linear.activation_bits is None else 8)
    widths = (linear.weight_bits, linear.activation_bits)
    return () if uniform or set(widths) <= {8, None} else ((_CLASSIFIER, finer),)


def parse_bits(text: str) -> tuple[int, int | None]:
    """``w4a8`` → (4, 8); ``w4a16`` → (4, None).

    Raises:
        BadInput: when the text has another form, or a width is not supported.
    """
    match = re.fullmatch(r"w([0-9]+)a([0-9]+)", text.strip().lower())
    if not match:
        raise BadInput(f"`bits={text}` is not of the form wXaY.", "Write for example `bits=w4a8`.")
    weight_bits, activation_bits = int(match[1]), int(match[2])
    LayerPrecision(weight_bits, PerChannel(), None if activation_bits == 16 else activation_bits)
    return weight_bits, None if activation_bits == 16 else activation_bits


def largest_block(input_sizes: Iterable[int]) -> int:
    """The largest block size of which every Linear's input size holds a whole number, two at least.

    A single block is a scale per channel, whose INT4 weights TensorRT-RTX unpacks by a kernel of
    its own at every inference, where it multiplies blocks as they are (measured, 1.7).

    Raises:
        BadInput: when none does.
    """
    sizes = sorted(set(input_sizes))
    for block in BLOCK_SIZES:
        if all(size % block == 0 and size >= 2 * block for size in sizes):
            return block
    raise BadInput(
        f"No block size of {BLOCK_SIZES} divides every Linear's input size {tuple(sizes)} into two "
        "or more.",
        "Use per-channel weights (`bits=w4a16`).",
    )


def _layer_to_json(layer: LayerPrecision) -> dict[str, Any]:
    granularity: str | int
    match layer.granularity:
        case PerTensor():
            granularity = "per-tensor"
        case PerChannel():
            granularity = "per-channel"
        case Block(size):
            granularity = size
    return {
        "weight_bits": layer.weight_bits,
        "granularity": granularity,
        "activation_bits": layer.activation_bits,
    }


def _layer_from_json(data: dict[str, Any]) -> LayerPrecision:
    granularities: dict[str, Granularity] = {
        "per-tensor": PerTensor(),
        "per-channel": PerChannel(),
    }
    raw = data["granularity"]
    granularity = Block(raw) if isinstance(raw, int) else granularities[raw]
    return LayerPrecision(data["weight_bits"], granularity, data["activation_bits"])
