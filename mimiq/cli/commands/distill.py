"""``distill``: a quantised network, tuned on its calibration images."""

from __future__ import annotations

import json
from pathlib import Path

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import next_commands, print_json, show, table, working
from mimiq.cli.preparing import ORIGIN, prepared, tuned
from mimiq.files import make_folder_whole


@click.command(
    cls=Command,
    short_help="Quantise a model and tune it.",
    examples=(
        (
            "mimiq distill deit_t --int4 --calibration images/ -o deit_t.tuned",
            "tune on a set that is there",
        ),
        ("mimiq distill digits --bits w4a4 --steps 600", "longer than the recipe says"),
    ),
)
@options.model_options
@options.precision_options
@options.images_options
@options.tuning_options
@options.out_options("MODEL-PRECISION.tuned")
@options.cache_option
@options.say_options
def distill(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    output: choices.OutChoice,
    cache_dir: Path | None,
    say: choices.Say,
) -> None:
    """Quantise MODEL and tune it on its calibration images; mimiq export takes the result."""
    preflight.require_model(choice.model)
    values.check_precision(precision)
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.quantize.store import QUANTIZERS, VALUES, save_quantized
    from mimiq.stages.graphs import graph_metadata

    progress, names = shown_progress(say.quiet), (VALUES, QUANTIZERS, ORIGIN)
    with working():
        job = prepared(choice, precision, images, tuning, output, ".tuned", progress, names)
        made, calibration = tuned(job, cache_dir, progress)
        quantized, report = made.network, made.report
        origin = {
            "metadata": graph_metadata(job.model, quantized, calibration),
            "tuning": report.to_json(),
        }

        def fill(folder: Path) -> None:
            save_quantized(quantized, folder)
            (folder / ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")

        make_folder_whole(job.out, fill)
    if say.json:
        print_json({"path": str(job.out), "precision": job.precision.to_json(), **origin})
        return
    result = report.result
    assert result is not None  # it was distilled, if for 0 steps
    if result.steps:
        looked_at, distilled = "held-out", f"{result.best_loss:.4f} (step {result.best_step})"
    else:
        looked_at, distilled = "fitted", "left out: 0 steps, see --steps"
    rows = [
        (f"loss on {looked_at} images", f"{result.initial_loss:.4f}"),
        ("the same, distilled", distilled),
    ]
    if job.model.output == "embedding":
        mean = f"{result.agreement:.4f} on the {looked_at} images"
        rows.append(("cosine with the original", mean))
    else:
        same = f"{result.agreement:.1%} of the {looked_at} images"
        rows.append(("same top-1 as the original", same))
    command = ["mimiq", "export", *values.repeated(choice), "--from", job.out]
    show(
        table(("", ""), rows, f"{choice.model} → {job.precision.label}: {job.out}"),
        next_commands({"writes its ONNX graph": command}),
    )
