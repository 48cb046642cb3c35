"""What was built: the products, attentions and conversions of an engine, as plain values."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

Role = Literal["linear", "convolution", "matmul"]

UNKNOWN = "unknown"
LOW_PRECISION = ("int4", "int8", "fp8", "fp4")


@dataclass(frozen=True)
class MatrixProduct:
    """One matrix product or convolution of the engine.

    Attributes:
        nodes: the ONNX nodes it computes; several where the builder merged them.
        role: ``linear`` (a constant weight), ``convolution``, or ``matmul`` (two computed operands,
            as attention has outside a fused kernel).
        compute: type in which the operands are multiplied: ``int8``, ``fp8``, ``half``, ``float``,
            ``bfloat16`` … or ``unknown``.
        weights: type in which the weight is stored, ``unknown``, or None without a weight.
        output: type of the result.
        unscaled_half: int8 accumulators are stored as half before any scale is applied: values
            beyond 65504 overflow.
        unpacked: the weight is prepared by a kernel of its own, at every inference.
    """

    nodes: tuple[str, ...]
    role: Role
    compute: str
    weights: str | None
    output: str
    unscaled_half: bool = False
    unpacked: bool = False

    @property
    def name(self) -> str:
        return " + ".join(self.nodes) if self.nodes else "(no name)"

    @property
    def label(self) -> str:
        """``int8``; ``int4→int8`` where the weight is stored narrower than it is multiplied."""
        if self.weights in (None, UNKNOWN, self.compute):
            return self.compute
        return f"{self.weights}→{self.compute}"


@dataclass(frozen=True)
class FusedAttention:
    """Softmax(q·kᵀ)·v in one kernel.

    Attributes:
        nodes: the ONNX nodes inside, Q/DQ included.
        compute: type of q, k and v.
    """

    nodes: tuple[str, ...]
    compute: str


@dataclass(frozen=True)
class PlanSummary:
    """An engine's precision, layer by layer.

    Attributes:
        source: ``plan`` (read from its text) or ``inspector`` (told by the runtime), and
            ``unreadable`` where neither gave anything.
        targets: compute capabilities it is compiled for, where known.
        forward_compatible: whether later GPUs may run it, where known.
        kernels: number of kernel launches.
        reformats: kernels that only move, cast or reshape data.
        unpacks: kernels that widen a stored weight, at every inference, before its product.
        weight_bytes: bytes of constants by type.
        plan_bytes: size of the engine.
    """

    source: Literal["plan", "inspector", "unreadable"]
    plan_bytes: int
    targets: tuple[str, ...] = ()
    forward_compatible: bool | None = None
    kernels: int = 0
    reformats: int = 0
    unpacks: int = 0
    products: tuple[MatrixProduct, ...] = ()
    attentions: tuple[FusedAttention, ...] = ()
    weight_bytes: tuple[tuple[str, int], ...] = ()

    def of_role(self, role: Role) -> Iterator[MatrixProduct]:
        return (product for product in self.products if product.role == role)

    def linears(self) -> Counter[str]:
        """How many of the model's Linears are computed how: ``{"int8": 49}``.

        A product that computes three merged Linears counts three times.
        """
        return _count(self.of_role("linear"))

    def matmuls(self) -> Counter[str]:
        """As :meth:`linears`, for products of two computed operands outside fused attention."""
        return _count(self.of_role("matmul"))

    def fused_attentions(self) -> Counter[str]:
        return Counter(attention.compute for attention in self.attentions)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["weight_bytes"] = dict(self.weight_bytes)
        data["linears"] = dict(self.linears())
        data["matmuls"] = dict(self.matmuls())
        data["fused_attentions"] = dict(self.fused_attentions())
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> PlanSummary:
        return PlanSummary(
            source=data["source"],
            plan_bytes=data["plan_bytes"],
            targets=tuple(data["targets"]),
            forward_compatible=data["forward_compatible"],
            kernels=data["kernels"],
            reformats=data["reformats"],
            unpacks=data["unpacks"],
            products=tuple(
                MatrixProduct(**(p | {"nodes": tuple(p["nodes"])})) for p in data["products"]
            ),
            attentions=tuple(
                FusedAttention(tuple(a["nodes"]), a["compute"]) for a in data["attentions"]
            ),
            weight_bytes=tuple(data["weight_bytes"].items()),
        )


def _count(products: Iterable[MatrixProduct]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for product in products:
        counts[product.label] += max(len(product.nodes), 1)
    return counts
