"""The proof of precision: what the graph asked for against what the engine does."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from mimiq.errors import CELL, UnsupportedTarget, shortened
from mimiq.export.tensorrt.network import WantedProduct
from mimiq.export.tensorrt.summary import LOW_PRECISION, UNKNOWN, MatrixProduct, PlanSummary

if TYPE_CHECKING:
    from rich.table import Table

_SHOWN = 5
# What the int8 attention kernel takes (measured with TensorRT-RTX 1.7).
_MAX_TOKENS, _HEAD_SIZES = 512, (16, 32, 64)


@dataclass(frozen=True)
class Fallback:
    """A product that lost the precision its graph asked for.

    Attributes:
        node: the ONNX node.
        wanted, got: for example ``int8`` and ``half``.
        reason: the likely one.
    """

    node: str
    wanted: str
    got: str
    reason: str

    def __str__(self) -> str:
        return f"{self.node}: {self.story}"

    @property
    def story(self) -> str:
        """What befell the node."""
        return f"wanted {self.wanted}, runs as {self.got} ({self.reason})"


@dataclass(frozen=True)
class Proof:
    """A summary judged.

    Attributes:
        summary: what the engine does.
        fallbacks: where low precision was lost.
        unproven: nodes that the engine's text does not show.
        unfused: attention products that run apart, in low precision or not, and why.
        overflow: products whose int8 accumulators pass through half unscaled.
        outlier_columns: how many inputs of which Linear are multiplied in floating point beside it.
    """

    summary: PlanSummary
    fallbacks: tuple[Fallback, ...]
    unproven: tuple[str, ...]
    unfused: tuple[str, ...]
    overflow: tuple[str, ...]
    outlier_columns: Mapping[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        data = asdict(self)
        data["summary"] = self.summary.to_json()
        return data

    @staticmethod
    def from_json(data: dict[str, Any]) -> Proof:
        return Proof(
            summary=PlanSummary.from_json(data["summary"]),
            fallbacks=tuple(Fallback(**item) for item in data["fallbacks"]),
            unproven=tuple(data["unproven"]),
            unfused=tuple(data["unfused"]),
            overflow=tuple(data["overflow"]),
            outlier_columns=dict(data.get("outlier_columns", {})),  # younger than the others
        )


def judge(summary: PlanSummary, wanted: Iterable[WantedProduct]) -> Proof:
    """Compare an engine with the graph it was built from, product by product."""
    by_node = {node: product for product in summary.products for node in product.nodes}
    fused = {node: a.compute for a in summary.attentions for node in a.nodes}
    fallbacks: list[Fallback] = []
    unproven: list[str] = []
    unfused: list[str] = []
    outliers: dict[str, int] = {}
    for want in wanted:
        if want.outlier_columns:
            outliers[want.node] = want.outlier_columns
        product, attention = by_node.get(want.node), fused.get(want.node)
        if not want.constant and product is not None:
            unfused.append(f"{want.node} ({_attention_reason(want)})")
        if not want.is_low:
            continue
        if attention is not None:
            if attention == UNKNOWN:
                unproven.append(want.node)
            elif want.left is not None and attention != want.left:
                fallbacks.append(
                    Fallback(want.node, want.label, attention, _attention_reason(want))
                )
        elif product is None or _unknown(want, product):
            unproven.append(want.node)
        elif not _keeps(want, product):
            fallbacks.append(Fallback(want.node, want.label, product.label, _reason(want, product)))
    overflow = [node for p in summary.products if p.unscaled_half for node in p.nodes]
    return Proof(
        summary, tuple(fallbacks), tuple(unproven), tuple(unfused), tuple(overflow), outliers
    )


def _unknown(want: WantedProduct, got: MatrixProduct) -> bool:
    return (got.weights if want.left is None else got.compute) == UNKNOWN


def _keeps(want: WantedProduct, got: MatrixProduct) -> bool:
    """Whether a product has the types its graph gave it."""
    if want.left is None:
        return got.weights in LOW_PRECISION
    # The wider operand decides: int4 weights with int8 activations multiply as int8.
    return got.compute == want.left


def _reason(want: WantedProduct, got: MatrixProduct) -> str:
    if not want.constant:
        return "attention products of these shapes or with this Q/DQ are not computed so"
    if want.left is None:
        return "the weight was dequantised when the engine was built"
    if got.unpacked and got.weights in LOW_PRECISION:
        return (
            "slices behind the product, of q, k and v, were moved above it, and its weight is cut "
            "apart at every inference; split by reshape, transpose and unbind, put the softmax "
            "scale's root on both q and k, and Q/DQ on all four attention inputs"
        )
    if got.weights in LOW_PRECISION:
        return "operands are widened before the product: weight scales must be per output channel"
    return "its Q/DQ did not reach the product"


def _attention_reason(want: WantedProduct) -> str:
    if want.mixed:
        return "heads are mixed around the softmax, which no fused attention does"
    if not want.is_low:
        return "floating-point attention fuses in half only"
    if want.tokens is not None and want.tokens > _MAX_TOKENS:
        return f"{want.tokens} tokens; int8 attention takes up to {_MAX_TOKENS}"
    if want.head_size is not None and want.head_size not in _HEAD_SIZES:
        return f"heads of {want.head_size}; int8 attention takes {_HEAD_SIZES}"
    return (
        "Q/DQ is needed on q, k, v and the softmax output, all four, with 8 bits for the softmax "
        "output and for what reads the heads"
    )


def require_precision(proof: Proof, *, allow_fallback: bool = False) -> None:
    """Refuse an engine that silently lost low precision.

    Raises:
        UnsupportedTarget: naming the products and the likely reason, unless ``allow_fallback``.
    """
    if not proof.fallbacks or allow_fallback:
        return
    lines = "\n".join(f"    {fallback}" for fallback in proof.fallbacks[:_SHOWN])
    more = len(proof.fallbacks) - _SHOWN
    if more > 0:
        lines += f"\n    and {more} more"
    count = len(proof.fallbacks)
    raise UnsupportedTarget(
        f"The engine lost low precision in {count} product{'s' if count > 1 else ''}:\n{lines}",
        "Change the graph as said, exclude these layers from quantisation, or accept it with "
        "`allow_fallback=True`.",
    )


def proof_table(proof: Proof, title: str = "Precision of the engine") -> Table:
    """The proof as a table for people."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=Text(title), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column()
    for key, value in proof_rows(proof):
        table.add_row(key, Text(shortened(value, CELL)))  # names of nodes may look like markup
    return table


def proof_rows(proof: Proof) -> Iterator[tuple[str, str]]:
    """What there is to say of an engine, each with its name."""
    summary = proof.summary
    if summary.source == "unreadable":
        yield "layers", "unknown: this engine's text cannot be read on this host"
    else:
        yield "Linears", _counted(summary.linears())
        if proof.outlier_columns:
            yield "outlier columns", outlier_sentence(proof.outlier_columns)
        yield "convolutions", _labels(summary.of_role("convolution"))
        yield "fused attentions", _counted(summary.fused_attentions())
        yield "other products", _counted(summary.matmuls())
        if proof.unfused:
            entries = (entry.partition(" (") for entry in proof.unfused)
            yield "not fused", _grouped((node, between + why) for node, between, why in entries)
        yield "fallbacks", _grouped((found.node, f": {found.story}") for found in proof.fallbacks)
        yield "kernels", _kernels(summary)
        yield "weights", _weights(summary)
    if proof.unproven:
        yield "not shown", _listed(proof.unproven)
    if proof.overflow:
        risk = "int8 sums pass through half before they are scaled and may overflow: "
        yield "overflow risk", risk + _listed(proof.overflow)
    if summary.targets:
        later = " and later" if summary.forward_compatible else ""
        yield "compiled for", ", ".join(summary.targets) + later
    yield "engine", f"{summary.plan_bytes / 1e6:.1f} MB"


def outlier_sentence(columns: Mapping[str, int]) -> str:
    """``1 Linear computes 2 outlier columns in floating point``."""
    linears, count = len(columns), sum(columns.values())
    return (
        f"{linears} Linear{'s compute' if linears > 1 else ' computes'} {count} outlier "
        f"column{'s' if count > 1 else ''} in floating point"
    )


def _counted(counts: dict[str, int]) -> str:
    ordered = sorted(counts.items(), key=lambda item: -item[1])
    return ", ".join(f"{count} × {label}" for label, count in ordered) or "none"


def _labels(products: Iterable[MatrixProduct]) -> str:
    counts: dict[str, int] = {}
    for product in products:
        counts[product.label] = counts.get(product.label, 0) + 1
    return _counted(counts)


def _listed(names: Sequence[str]) -> str:
    if not names:
        return "none"
    more = f"\n… and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "\n".join(names[:_SHOWN]) + more


def _grouped(found: Iterable[tuple[str, str]]) -> str:
    """(node, what is to say of it): nodes of which the same is to say share a line."""
    nodes: dict[str, list[str]] = {}
    for node, what in found:
        nodes.setdefault(what, []).append(node)
    return _listed([_ends(names) + what for what, names in nodes.items()])


def _ends(names: Sequence[str]) -> str:
    if len(names) < 3:
        return " and ".join(names)
    return f"{len(names)}, {names[0]} … {names[-1]}"


def _kernels(summary: PlanSummary) -> str:
    text = f"{summary.kernels}, of them {summary.reformats} only move or cast data"
    if summary.unpacks:
        text += f", {summary.unpacks} unpack weights at every inference"
    return text


def _weights(summary: PlanSummary) -> str:
    if not summary.weight_bytes:
        return "unknown"
    total = sum(size for _, size in summary.weight_bytes)
    parts = ", ".join(f"{kind} {size / 1e6:.2f}" for kind, size in summary.weight_bytes)
    return f"{total / 1e6:.2f} MB ({parts})"
