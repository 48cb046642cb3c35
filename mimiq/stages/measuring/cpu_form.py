"""Whether a weight-only network keeps its form for CPUs, which rounds activations as they come."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from mimiq.progress import Progress
from mimiq.runtime.bundle import CPU_MODEL, MODEL
from mimiq.runtime.evaluation.held_out import answers_by_kind, relative_error
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.preprocessing import FloatArray
from mimiq.spec import Job
from mimiq.stages.images import TuningImages

_SHARE = 0.1  # of the logit error: by more than that it may not grow
_NEGLIGIBLE = 1e-3  # of the logits' variance


def rounds_inputs(job: Job, graphs: Mapping[str, Path]) -> bool:
    """Whether the form for CPUs rounds activations that the network itself leaves as they are."""
    return job.precision.linear.activation_bits is None and CPU_MODEL in graphs


def kept_forms(
    job: Job,
    images: TuningImages,
    graphs: Mapping[str, Path],
    reference: Path,
    progress: Progress,
) -> tuple[dict[str, Path], list[str]]:
    """The graphs without a form for CPUs that costs too much, and what is to be said of it.

    Args:
        images: of the compilation; those that nothing was fitted to are judged on.
        graphs: by their names in the bundle.
        reference: the full-precision graph.
    """
    if not rounds_inputs(job, graphs):
        return dict(graphs), []
    preprocessing = job.model.preprocessing
    answers: dict[str, FloatArray] = {}
    forms = {"full": reference, "plain": graphs[MODEL], "cpu": graphs[CPU_MODEL]}
    with progress.stage("export") as stage:
        stage.update(text="what the form for CPUs costs")
        for name, path in forms.items():
            with OnnxRuntimeSession(path, device="cpu", spinning=False) as session:
                found = answers_by_kind(session.run, images.judging, preprocessing)
                answers[name] = np.concatenate(list(found.values()))
    plain, cpu = (relative_error(answers[name], answers["full"]) for name in ("plain", "cpu"))
    if cpu <= plain + max(_SHARE * plain, _NEGLIGIBLE):
        return dict(graphs), [
            "ONNX Runtime on a CPU rounds each token's activations to eight bits "
            f"({CPU_MODEL}): a logit error of {cpu:.2%} instead of {plain:.2%} on images held out. "
            f"{MODEL} keeps them in floating point."
        ]
    return {name: path for name, path in graphs.items() if name != CPU_MODEL}, [
        "Rounding each token's activations to eight bits would make this network faster on a CPU, "
        f"with a logit error of {cpu:.2%} instead of {plain:.2%} on images held out: it was left "
        "out, and ONNX Runtime takes about as long as for fp32."
    ]
