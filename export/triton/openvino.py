"""What is said of a packed graph to OpenVINO's servers: Triton's backend and Model Server."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.export.triton.plan import PackOptions, Plan


def for_graph(options: PackOptions) -> PackOptions:
    """The options by which the graph is chosen: Q/DQ, as for OpenVINO inside of ONNX Runtime.

    Raises:
        BadInput: something else than a CPU was asked for.
    """
    if options.device == "gpu" or options.accelerator not in ("auto", "none"):
        raise BadInput(
            "OpenVINO serves on the CPU, by itself.",
            "Choose the CPU, and leave `accelerator` out.",
        )
    return replace(options, device="cpu", accelerator="openvino")


def for_openvino(plan: Plan, options: PackOptions) -> Plan:
    """The plan of a graph for ONNX Runtime, turned into that for OpenVINO.

    With a ``max_batch_size`` Triton's backend fixes the network's batch, and refuses or pads
    smaller ones (its source of November 2025): without one each request runs as it comes.
    """
    hint = "LATENCY" if options.instances == 1 else "THROUGHPUT"
    properties = {"PERFORMANCE_HINT": hint, "NUM_STREAMS": str(options.instances)}
    notes = [
        "Neither Triton's openvino backend nor OpenVINO Model Server was run on this: the files "
        "follow their documentation. Compare what they serve with mimiq check."
    ]
    if options.top_k is not None:
        notes.append("The names of the classes are in labels.txt alone: OpenVINO gives no text.")
    return replace(
        plan,
        backend="openvino",
        accelerator=None,
        batched=False,
        parameters=properties,
        model_server={
            "model_version_policy": {"latest": {"num_versions": 1}},
            "target_device": "CPU",
            "plugin_config": properties,
        },
        notes=tuple(notes),
    )
