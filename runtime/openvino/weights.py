"""Weights that are all a network quantises: kept compressed, or expanded when it is read."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from mimiq.runtime.host import instruction_sets


def are_all_that_is_quantized(network: Any) -> bool:
    """Whether an ``openvino.Model`` computes in floating point alone, whatever it keeps."""
    return all(node.get_type_name() != "FakeQuantize" for node in network.get_ops())


def quicker_expanded(capabilities: Collection[str], floats: str) -> bool:
    """Whether expanding them once makes a run quicker than expanding them in every run.

    It does where products are in float32, and where AMX makes them quicker than the expansion:
    ``benchmarks/results/openvino_forms.md``.

    Args:
        capabilities: of the CPU, as OpenVINO names them.
        floats: see :class:`mimiq.runtime.openvino.networks.Settings`.
    """
    in_float32 = floats == "float32" or (floats == "auto" and "BF16" not in capabilities)
    return in_float32 or "amx_bf16" in instruction_sets()


def expand(network: Any) -> None:
    """Make quantised weights floating point, in place; the file keeps them as they are.

    Args:
        network: an ``openvino.Model``.
    """
    from openvino.passes import ConstantFolding, Manager

    passes = Manager()
    passes.register_pass(ConstantFolding())
    passes.run_passes(network)
