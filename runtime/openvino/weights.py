"""Weights that OpenVINO makes floating point again in every run, made so when it reads them."""

from __future__ import annotations

from typing import Any


def are_all_that_is_quantized(network: Any) -> bool:
    """Whether an ``openvino.Model`` computes in floating point alone, whatever it keeps."""
    return all(node.get_type_name() != "FakeQuantize" for node in network.get_ops())


def make_float32(network: Any) -> None:
    """Expand quantised weights in place; the file keeps them as they are.

    In float32 nothing is gained by expanding them run by run: DeiT-T's INT4 weights take 1.02 to
    1.07 times as long so on one thread of a CPU held to AVX2, and 1.1 to 1.45 times on two
    (``benchmarks/results/openvino_forms.md``).

    Args:
        network: an ``openvino.Model``.
    """
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(network)
