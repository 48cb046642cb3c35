"""Open a compiled bundle, run it, and measure what it does. Needs neither torch nor timm.

Example::

    import mimiq.runtime

    with mimiq.runtime.open_bundle("deit_t.int8.mimiq") as session:
        logits = session.run(images)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.bundle_writing import add_files, write_bundle
    from mimiq.runtime.evaluation.accuracy import compare, evaluate
    from mimiq.runtime.evaluation.comparison import Accuracy, Comparison
    from mimiq.runtime.evaluation.datasets import InMemoryImages, LabelledImages
    from mimiq.runtime.evaluation.labelled_folders import open_dataset
    from mimiq.runtime.host import describe_hardware, describe_software
    from mimiq.runtime.latency.measure import Engine, LatencyRow, measure
    from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
    from mimiq.runtime.opening import open_bundle
    from mimiq.runtime.preprocessing import Preprocessing
    from mimiq.runtime.report.building import build_report
    from mimiq.runtime.report.report import Report
    from mimiq.runtime.report.terminal import render
    from mimiq.runtime.session import Prediction, Session, classify

_WHERE = {
    "Accuracy": "evaluation.comparison",
    "Bundle": "bundle",
    "Comparison": "evaluation.comparison",
    "Engine": "latency.measure",
    "InMemoryImages": "evaluation.datasets",
    "LabelledImages": "evaluation.datasets",
    "LatencyRow": "latency.measure",
    "OnnxRuntimeSession": "onnxruntime.session",
    "Prediction": "session",
    "Preprocessing": "preprocessing",
    "Session": "session",
    "add_files": "bundle_writing",
    "Report": "report.report",
    "build_report": "report.building",
    "classify": "session",
    "compare": "evaluation.accuracy",
    "describe_hardware": "host",
    "describe_software": "host",
    "evaluate": "evaluation.accuracy",
    "measure": "latency.measure",
    "open_bundle": "opening",
    "open_dataset": "evaluation.labelled_folders",
    "render": "report.terminal",
    "write_bundle": "bundle_writing",
}

__all__ = [
    "Accuracy",
    "Bundle",
    "Comparison",
    "Engine",
    "InMemoryImages",
    "LabelledImages",
    "LatencyRow",
    "OnnxRuntimeSession",
    "Prediction",
    "Preprocessing",
    "Report",
    "Session",
    "add_files",
    "build_report",
    "classify",
    "compare",
    "describe_hardware",
    "describe_software",
    "evaluate",
    "measure",
    "open_bundle",
    "open_dataset",
    "render",
    "write_bundle",
]


def __getattr__(name: str) -> Any:
    # Imported when first used, so that opening a bundle waits for nothing it does not need.
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
