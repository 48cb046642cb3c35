"""What a compilation measures of its result, as ONNX Runtime executes it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from mimiq.models.names import EMBEDDED
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel
from mimiq.runtime.bundle import CPU_MODEL, MODEL
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.comparison import Comparison
from mimiq.runtime.evaluation.datasets import InMemoryImages, LabelledImages
from mimiq.runtime.evaluation.held_out import HeldOut, cost, logits_of
from mimiq.runtime.evaluation.similarity import (
    EmbeddingCost,
    Similarity,
    compare_embeddings,
    similarity,
)
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.report.building import build_report
from mimiq.runtime.report.report import Report, Size
from mimiq.spec import Job
from mimiq.stages.images import TuningImages
from mimiq.stages.measuring.agreement import Answers, agreement_notes, simulated
from mimiq.stages.measuring.cpu_form import rounds_inputs
from mimiq.stages.tune import Tuned

_FAR = 0.96  # mean cosine of embeddings, below which more is said in a warning
_POOR = 2.0  # points of top-1 that are probably lost: more is said in a warning


def measured(
    job: Job,
    tuned: Tuned,
    images: TuningImages,
    graphs: Mapping[str, Path],
    reference: Path,
    progress: Progress,
) -> Report:
    """Accuracy and cost of the exported graph, as ONNX Runtime executes it.

    Args:
        images: of the compilation; those that nothing was fitted to tell the cost without labels.

    Raises:
        CheckFailed: when it does something else than the simulated network.
    """
    model, graph, errors = job.model, deployed_graph(graphs), tuned.report.errors
    dataset, name = _evaluation(job)
    accuracy: Comparison | None = None
    similar: Similarity | None = None
    with (
        OnnxRuntimeSession(graph, device="auto", spinning=False) as exported,
        OnnxRuntimeSession(reference, device="auto", spinning=False) as full,
    ):
        if dataset is not None:
            with progress.stage("accuracy", len(dataset)) as stage:
                stage.update(text="exported graph against fp32")
                if model.output == "embedding":
                    similar = compare_embeddings(
                        exported,
                        full,
                        dataset,
                        model.preprocessing,
                        tokens=model.tokens,
                        stage=stage,
                    )
                else:
                    accuracy = compare(exported, full, dataset, model.preprocessing, stage=stage)
        with progress.stage("cost") as stage:
            stage.update(text="on images held out")
            answers = _answers(tuned.network, images, exported, full)
    near_ties = agreement_notes(
        list(answers.values()),
        model.output,
        model.tokens,
        rounds_inputs=rounds_inputs(job, graphs) and graph == graphs[CPU_MODEL],
    )
    held_out: HeldOut | None = None
    embeddings: EmbeddingCost | None = None
    if model.output == "embedding":
        kinds = {
            kind: similarity(each.exported, each.full, model.tokens)
            for kind, each in answers.items()
        }
        embeddings = EmbeddingCost(kinds, similar)
        warnings = _embedding_warnings(embeddings, errors)
    else:
        held_out = HeldOut({kind: cost(each.exported, each.full) for kind, each in answers.items()})
        warnings = _warnings(held_out, errors)
    report = build_report(
        model=model.describe(),
        precision=job.precision.to_json(),
        size=Size(graphs[MODEL].stat().st_size, reference.stat().st_size),
        dataset=name,
        accuracy=accuracy,
        held_out=held_out,
        similarity=embeddings,
        notes=[*_notes(job, images), *warnings, *near_ties],
    )
    return replace(report, memory=_memory(graphs[MODEL]))


def _memory(graph: Path) -> dict[str, int]:
    """Bytes of a graph by what they hold."""
    from mimiq.export import summarize

    found = summarize(graph)
    stored = {**found["weight_bytes"], "scales": found["scale_bytes"]}
    other = found["initializer_bytes"] - sum(stored.values())
    return {**stored, "other": other, "graph": found["file_bytes"] - found["initializer_bytes"]}


def _evaluation(job: Job) -> tuple[LabelledImages | None, str | None]:
    if job.evaluation is not None:
        return job.evaluation, job.evaluation_name
    if job.model.name != EMBEDDED:
        return None, None
    from mimiq.models.digits import digits_heldout

    images, labels = digits_heldout()
    return InMemoryImages(images, labels, job.model.num_classes), "held-out digits"


def _answers(
    quantized: QuantizedModel,
    images: TuningImages,
    exported: OnnxRuntimeSession,
    full: OnnxRuntimeSession,
) -> dict[str, Answers]:
    """The answers to the images that nothing was fitted to, by their kind."""
    preprocessing = quantized.model.preprocessing
    return {
        kind: Answers(
            exported=logits_of(exported.run, pixels, preprocessing),
            full=logits_of(full.run, pixels, preprocessing),
            simulated=logits_of(simulated(quantized), pixels, preprocessing),
            nudged=logits_of(simulated(quantized, nudge=1e-6), pixels, preprocessing),
        )
        for kind, pixels in images.judging.items()
    }


def _warnings(held_out: HeldOut, errors: Mapping[str, float]) -> list[str]:
    """Where the network loses much: which layers are at fault, and what would help."""
    if held_out.points <= _POOR:
        return []
    return [
        f"This network loses much at this precision: about {held_out.points:.1f} points of top-1."
        f"{_at_fault(errors)} Set a limit for the loss with `max_drop`, tune longer with more "
        "`steps`, or choose more bits."
    ]


def _embedding_warnings(found: EmbeddingCost, errors: Mapping[str, float]) -> list[str]:
    if found.mean >= _FAR:
        return []
    return [
        "This network's embeddings turn much at this precision: their mean cosine with those of "
        f"full precision is {found.mean:.3f} on images held out.{_at_fault(errors)} Set a "
        "limit for the loss with `max_drop`, tune longer with more `steps`, or choose more bits."
    ]


def _at_fault(errors: Mapping[str, float]) -> str:
    worst = sorted(errors, key=lambda name: -errors[name])[:3]
    return f" The layers that cost most are {', '.join(worst)}." if worst else ""


def _notes(job: Job, images: TuningImages) -> list[str]:
    notes = [str(job.raised["note"])] if job.raised else []
    bits = job.precision.linear.activation_bits
    if bits is not None and bits < 8:
        notes.append(
            f"{bits}-bit activations are carried as INT8: the numbers are those of {bits} bits, "
            "the speed is at best that of INT8."
        )
    if job.recipe.ranges.refit and not job.recipe.distillation.steps:
        notes.append("Fitted layer by layer and not distilled: `steps=N` distils as well.")
    if images.kind == "noise":
        notes.append("Calibrated on Gaussian noise: a control, not a recommendation.")
    return notes
