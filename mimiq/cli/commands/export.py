"""``export``: a network as a Q/DQ ONNX graph, checked against a target's rules."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, size, table, working
from mimiq.cli.parameters import PATH
from mimiq.cli.preparing import ORIGIN, prepared, tuned
from mimiq.errors import BadInput
from mimiq.files import copy_whole, exhausted
from mimiq.outputs import require_folder, require_new

if TYPE_CHECKING:
    from mimiq.export.rules.findings import Finding
    from mimiq.models import LoadedModel
    from mimiq.quantize.insert import QuantizedModel


_CARRIED = (
    "INT4 weights that meet INT8 activations are stored as INT8, the same values in twice the "
    "bytes: TensorRT would unpack them before every product. --target ort keeps them packed."
)


@click.command(
    cls=Command,
    short_help="Write a model as a Q/DQ ONNX graph.",
    examples=(
        (
            "mimiq export deit_t --from deit_t.tuned --target rtx -o deit_t.onnx",
            "a tuned network for TensorRT-RTX",
        ),
        ("mimiq export digits --int8", "quantise and write, in one go"),
    ),
)
@options.model_options
@options.precision_options
@options.images_options
@options.tuning_options
@options.option(
    "Precision",
    "--from",
    "source",
    type=PATH,
    help="Folder of mimiq distill; its precision is taken, nothing is calibrated.",
)
@options.option(
    "Target",
    "--target",
    type=click.Choice(choices.TARGETS[1:]),
    default=choices.GRAPH,
    show_default=True,
    help="Whose rules the graph must obey: rtx and trt get the half-precision form.",
)
@options.out_options("MODEL-PRECISION.onnx")
@options.cache_option
@options.say_options
def export(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    source: Path | None,
    target: Any,
    output: choices.OutChoice,
    cache_dir: Path | None,
    say: choices.Say,
) -> None:
    """Write MODEL as a Q/DQ ONNX graph, and check it against a target's rules."""
    preflight.require_model(choice.model)
    values.check_precision(precision)
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.export import export_onnx, require, summarize, to_fp16
    from mimiq.spec import default_out
    from mimiq.stages.graphs import graph_metadata

    progress = shown_progress(say.quiet)
    with working():
        if source is None:
            job = prepared(choice, precision, images, tuning, output, ".onnx", progress)
            model, out = job.model, job.out
            found, calibration = tuned(job, cache_dir, progress)
            quantized = found.network
            metadata = graph_metadata(model, quantized, calibration)
        else:
            _refuse(precision, images, tuning)
            require_folder(source, f"--from {source}", "a folder that mimiq distill wrote")
            if output.out is not None:
                require_new(output.out, output.force, ".onnx")
            model = values.load(choice, progress)
            quantized, metadata = _read_tuned(model, source)
            label = quantized.precision.label
            out = output.out or default_out(choice.model, label, ".onnx")
            require_new(out, output.force, ".onnx")
        with progress.stage("export") as stage, tempfile.TemporaryDirectory() as folder:
            stage.update(text="Q/DQ graph")
            graph = Path(folder) / "model.onnx"
            shape, output_name = model.preprocessing.input_shape, model.output
            graph = export_onnx(
                quantized.module, shape, graph, output=output_name, metadata=metadata
            )
            summary, carried = summarize(graph), False
            if target != choices.GRAPH:
                packed = _int4_bytes(summary)
                graph = to_fp16(graph, Path(folder) / "half.onnx")
                summary = summarize(graph)
                carried = _int4_bytes(summary) < packed
            stage.update(text=f"checking the rules of {target}")
            slow = _grouped(require(graph, target))
            copy_whole(graph, out)
    if say.json:
        print_json({"path": str(out), "graph": summary, "slow": slow, "int4_as_int8": carried})
        return
    layers = [(count, layer) for layer, count in summary["layers"].items()]
    show(
        table(("", "layers"), layers, f"{out}, {size(out.stat().st_size)}"),
        *([f"• {_CARRIED}"] if carried else []),
        *(f"• {text}" for text in slow),
    )


def _int4_bytes(summary: Mapping[str, Any]) -> int:
    found: int = summary["weight_bytes"].get("int4", 0)
    return found


def _grouped(findings: Iterable[Finding]) -> list[str]:
    """One line for each rule and problem, however many nodes have it."""
    nodes: dict[tuple[str, str], list[str]] = {}
    for finding in findings:
        nodes.setdefault((finding.rule, finding.problem), []).append(finding.node)
    lines = []
    for (_, problem), names in nodes.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"{', '.join(names[:3])}{more}: {problem}")
    return lines


def _read_tuned(model: LoadedModel, source: Path) -> tuple[QuantizedModel, dict[str, str]]:
    from mimiq.quantize.store import load_quantized

    quantized = load_quantized(model, source)
    try:
        metadata: dict[str, str] = json.loads((source / ORIGIN).read_text())["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise exhausted(error, f"{source / ORIGIN} cannot be read") or BadInput(
            f"{source / ORIGIN} cannot be read: {error}", "Run mimiq distill again."
        ) from error
    return quantized, metadata


def _refuse(
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
) -> None:
    """What would be without effect: the folder holds its outcome."""
    if precision != choices.PrecisionChoice():
        raise BadInput(
            "--from brings its own precision, and another was given.",
            "Leave out --int8, --int4, --bits, --weight-only, --block-size and --uniform.",
        )
    if (images, tuning) != (choices.ImagesChoice(device=images.device), choices.TuningChoice()):
        raise BadInput(
            "--from brings a network that is calibrated and tuned, and it was to be done again.",
            "Leave out --recipe, --images, --seed, --calibration and --steps, or --from.",
        )
