"""The sentences at the end of a benchmark."""

from __future__ import annotations

from dataclasses import replace

from mimiq.export.tensorrt.proof import Fallback, Proof
from mimiq.export.tensorrt.summary import MatrixProduct, PlanSummary
from mimiq.export.tensorrt.verdict import verdict
from mimiq.runtime.latency.measure import LatencyRow


def row(batch: int, low: float, middle: float, high: float) -> LatencyRow:
    return LatencyRow("int8", "rtx", batch, 1.0, 1.1, 1.2, 8.0, middle, (low, high), 100, True)


def proof(kernels: int, output: str = "half") -> Proof:
    linear = MatrixProduct(("a/MatMul",), "linear", "int8", "int8", output)
    summary = PlanSummary("plan", 10, kernels=kernels, products=(linear,))
    return Proof(summary, (), (), (), ())


def test_it_helped() -> None:
    lines = verdict([row(1, 1.1, 1.2, 1.3), row(8, 1.4, 1.5, 1.6)], "NVIDIA L4", proof(5), proof(4))
    assert lines == [
        "On NVIDIA L4 low precision helped against FP16: speed-up 1.20 at batch 1, 1.50 at batch 8."
    ]


def test_it_did_not() -> None:
    low = replace(
        proof(9, "float"),
        fallbacks=tuple(Fallback(f"n{i}", "int8", "half", "why") for i in range(5)),
        unfused=("s/MatMul (625 tokens)",),
    )
    low = replace(low, summary=replace(low.summary, unpacks=7))
    lines = verdict([row(1, 0.8, 0.9, 0.95), row(8, 0.9, 1.0, 1.1)], "L4", low, proof(4))
    assert (
        lines[0] == "On L4 low precision made no difference against FP16: speed-up 1.00 at batch 8."
    )
    assert lines[1] == "On L4 low precision hurt against FP16: speed-up 0.90 at batch 1."
    text = "\n".join(lines[2:])
    for words in (
        "n0",
        "and 2 more",
        "625 tokens",
        "every inference: 7",
        "four bytes",
        "9 kernels",
    ):
        assert words in text


def test_nothing_to_blame() -> None:
    lines = verdict([row(1, 0.9, 0.95, 0.99)], "L4", proof(4), proof(4))
    assert "too small" in lines[-1]
    assert len(verdict([row(1, 0.9, 0.95, 0.99)], "L4")) == 1
