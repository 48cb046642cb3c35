"""The compiler's stages on their own: ``synthesize``, ``distill`` and ``export``."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.failures import Command
from mimiq.cli.output import next_commands, print_json, show, table, working
from mimiq.cli.parameters import PATH
from mimiq.cli.placing import place_file, place_folder
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.models import LoadedModel
    from mimiq.pipeline import Job
    from mimiq.progress import Progress
    from mimiq.quantization import QuantizedModel
    from mimiq.recipes_synthesis import SynthesisRecipe

TUNED = "quantizers.json"  # by which a folder of mimiq distill is known
ORIGIN = "origin.json"


@click.command(cls=Command, short_help="Make a calibration set.")
@options.model_options
@options.images_options
@options.option(
    "Calibration",
    "--method",
    type=click.Choice(choices.CALIBRATIONS),
    default="synthetic",
    show_default=True,
    help="MimiQ's images, PSAQ-ViT's (a baseline), or Gaussian noise (a control).",
)
@options.option("Output", "-o", "--out", type=PATH, required=True, help="Folder of the set.")
@options.say_options
def synthesize(
    choice: choices.ModelChoice,
    images: choices.ImagesChoice,
    method: str,
    out: Path,
    say: choices.Say,
) -> None:
    """Make a calibration set for MODEL, without one real image.

    Every finished batch is kept: the same command goes on with an interrupted set.
    """
    preflight.require_compile_extra()
    from mimiq.progress import Progress

    progress = Progress(say.quiet)
    with working():
        with progress.stage("load"):
            model = values.load(choice)
        recipe = values.synthesis_of(images, choice.model)
        made = _make(method, model, recipe, images, out, progress)
    if say.json:
        print_json({"path": str(out), "sha256": made.content_hash, "manifest": dict(made.manifest)})
        return
    command: list[str | Path] = ["mimiq-compile", choice.model, "--calibration", out]
    show(
        f"{len(made)} images of {made.image_size} pixels: {out}",
        next_commands({"calibrates and tunes on them": command}),
    )


def _make(
    method: str,
    model: LoadedModel,
    recipe: SynthesisRecipe,
    images: choices.ImagesChoice,
    out: Path,
    progress: Progress,
) -> CalibrationSet:
    if method == "noise":
        from mimiq.calibrate import gaussian_noise

        return gaussian_noise(model.preprocessing, recipe.images, images.seed, out)
    from mimiq.psaq import synthesize_psaq
    from mimiq.synthesis import synthesize as synthesize_mimiq

    function = synthesize_mimiq if method == "synthetic" else synthesize_psaq
    return function(
        model, recipe, seed=images.seed, out=out, device=images.device, progress=progress
    )


@click.command(cls=Command, short_help="Quantise a model and tune it.")
@options.model_options
@options.precision_options
@options.images_options
@options.tuning_options
@options.out_options
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
    preflight.require_compile_extra()
    values.check_precision(precision)
    from mimiq.progress import Progress
    from mimiq.state import save_quantized

    progress = Progress(say.quiet)
    with working():
        job = _prepared(choice, precision, images, tuning, output, ".tuned", TUNED)
        quantized, calibration, report = _tuned(job, cache_dir, progress)
        origin = {"metadata": _metadata(job.model, quantized, calibration), "tuning": report}

        def fill(folder: Path) -> None:
            save_quantized(quantized, folder)
            (folder / ORIGIN).write_text(json.dumps(origin, indent=1), encoding="utf-8")

        place_folder(job.out, fill)
    if say.json:
        print_json({"path": str(job.out), "precision": job.precision.to_json(), **origin})
        return
    result = report["result"]
    rows = [
        ("held-out loss before", f"{result['initial_loss']:.4f}"),
        ("held-out loss after", f"{result['best_loss']:.4f} (step {result['best_step']})"),
        ("same top-1 as the original", f"{result['agreement']:.1%} of the held-out images"),
    ]
    command: list[str | Path] = ["mimiq", "export", choice.model, "--from", job.out]
    show(
        table(("", ""), rows, f"{choice.model} → {job.precision.label}: {job.out}"),
        next_commands({"writes its ONNX graph": command}),
    )


@click.command(cls=Command, short_help="Write a model as a Q/DQ ONNX graph.")
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
    default="ort",
    show_default=True,
    help="Whose rules the graph must obey: rtx and trt get the half-precision form.",
)
@options.out_options
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
    preflight.require_compile_extra()
    values.check_precision(precision)
    from mimiq.export import export_onnx, require, summarize, to_fp16
    from mimiq.progress import Progress

    progress = Progress(say.quiet)
    with working():
        if source is None:
            job = _prepared(choice, precision, images, tuning, output, ".onnx", None)
            model, out = job.model, job.out
            quantized, calibration, _ = _tuned(job, cache_dir, progress)
            metadata = _metadata(model, quantized, calibration)
        else:
            _refuse_precision(precision)
            model = values.load(choice)
            quantized, metadata = _read_tuned(model, source)
            label = quantized.precision.label
            out = output.out or values.default_out(choice.model, label, ".onnx")
            preflight.require_new(out, output.force, None)
        with progress.stage("export") as stage, tempfile.TemporaryDirectory() as folder:
            stage.status("Q/DQ graph")
            graph = Path(folder) / "model.onnx"
            size = model.preprocessing.image_size
            graph = export_onnx(quantized.module, size, graph, metadata=metadata)
            if target != "ort":
                graph = to_fp16(graph, Path(folder) / "half.onnx")
            stage.status(f"checking the rules of {target}")
            slow = [str(finding) for finding in require(graph, target)]
            place_file(graph, out)
    summary = summarize(out)
    if say.json:
        print_json({"path": str(out), "graph": summary, "slow": slow})
        return
    layers = [(count, layer) for layer, count in summary["layers"].items()]
    show(
        table(("", "layers"), layers, f"{out}, {out.stat().st_size / 1e6:.2f} MB"),
        *(f"• {finding}" for finding in slow),
    )


def _prepared(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    output: choices.OutChoice,
    suffix: str,
    marker: str | None,
) -> Job:
    """The job, its inputs and output checked."""
    if output.out is not None:
        preflight.require_new(output.out, output.force, marker)
    model = values.load(choice)
    wanted = values.precision_of(precision, model)
    out = output.out or values.default_out(choice.model, wanted.label, suffix)
    preflight.require_new(out, output.force, marker)
    return values.job_of(model, wanted, images, tuning, out)


def _tuned(
    job: Job, cache_dir: Path | None, progress: Progress
) -> tuple[QuantizedModel, CalibrationSet, dict[str, Any]]:
    from mimiq.cache import Cache, default_cache_dir
    from mimiq.pipeline import calibration_set, tuned_network

    cache = Cache(cache_dir or default_cache_dir())
    calibration = calibration_set(job, cache, progress)
    quantized, report = tuned_network(job, calibration, cache, progress)
    return quantized, calibration, report


def _metadata(
    model: LoadedModel, quantized: QuantizedModel, calibration: CalibrationSet
) -> dict[str, str]:
    """What the ONNX file says of itself, as in a bundle."""
    return {
        "mimiq.model": model.name,
        "mimiq.precision": json.dumps(quantized.precision.to_json()),
        "mimiq.preprocessing": json.dumps(model.preprocessing.to_json()),
        "mimiq.weights_sha256": model.weights_hash,
        "mimiq.calibration_sha256": calibration.content_hash,
        "mimiq.untrained": json.dumps(model.untrained),
    }


def _read_tuned(model: LoadedModel, source: Path) -> tuple[QuantizedModel, dict[str, str]]:
    from mimiq.state import load_quantized

    preflight.require_folder(source, "--from", "a folder that mimiq distill wrote")
    quantized = load_quantized(model, source)
    try:
        metadata: dict[str, str] = json.loads((source / ORIGIN).read_text())["metadata"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{source / ORIGIN} cannot be read: {error}", "Run mimiq distill again."
        ) from error
    return quantized, metadata


def _refuse_precision(choice: choices.PrecisionChoice) -> None:
    if choice != choices.PrecisionChoice(False, False, None, False, None):
        raise BadInput(
            "--from brings its own precision, and another was given.",
            "Leave out --int8, --int4, --bits, --weight-only and --block-size.",
        )
