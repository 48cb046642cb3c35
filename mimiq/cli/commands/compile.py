"""``mimiq-compile``: from a trained network to a checked, quantised bundle."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.dry_run import show_plan
from mimiq.cli.engines import engine_json, engine_spec, require_fp8
from mimiq.cli.failures import Command
from mimiq.cli.output import next_commands, print_json, show, show_report, shown, working
from mimiq.errors import BadInput
from mimiq.inputs import calibration_of, check_budget

if TYPE_CHECKING:
    from mimiq.cache import Cache
    from mimiq.export.tensorrt.engines import BundleEngine
    from mimiq.progress import Progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.spec import Job
    from mimiq.stages.estimate import Estimate

MANIFEST = "manifest.json"  # by which a bundle is known


@click.command("compile", cls=Command, short_help="From a trained network to a checked bundle.")
@options.model_options
@options.precision_options
@options.budget_options
@options.images_options
@options.tuning_options
@options.measure_options
@options.engine_options
@options.out_options
@options.cache_option
@options.dry_run_option
@options.say_options
def compile_command(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    budget: choices.BudgetChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    measurement: choices.MeasureChoice,
    engine: choices.EngineChoice,
    output: choices.OutChoice,
    cache_dir: Path | None,
    dry_run: bool,
    say: choices.Say,
) -> None:
    """Compile MODEL to a checked, quantised bundle, without one real image.

    MODEL is a short name (deit_t, deit_s, deit_b, vit_t, vit_s, vit_b), any ViT or DeiT of timm,
    torchvision's vit_b_16 and the like, a folder or hub repository of transformers or timm, or
    digits, a small network that comes with mimiq. An interrupted run goes on where it stopped when
    the same command is given again.
    """
    preflight.require_model(choice.model)
    values.check_precision(precision)
    if output.out is not None:
        preflight.require_new(output.out, output.force, MANIFEST)
    if measurement.evaluation is not None:
        preflight.require_folder(measurement.evaluation, "--eval", "a folder of images")
    elif measurement.eval_limit is not None:
        raise BadInput(
            "--eval-limit is of the images of --eval, and none were given.",
            "Leave it out, or give --eval DIR.",
        )
    calibration_of(tuning.calibration)
    preflight.require_target(engine.target)
    require_fp8(engine, precision)
    limits = values.budget_of(budget)

    from mimiq.cache import Cache, default_cache_dir
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.compiler import compile_model

    progress = shown_progress(say.quiet)
    with working():
        with progress.stage("load") as stage:
            stage.update(text=choice.model)
            job = _measured(_job(choice, precision, images, tuning, output, progress), measurement)
            check_budget(limits, job.model)
        cache = Cache(cache_dir or default_cache_dir(), progress.note)
        job = replace(job, budget=limits, engine=engine_spec(engine))
        if dry_run:
            plan = _plan(job, cache, progress)
        else:
            made = compile_model(job, cache, progress)
    if dry_run:
        show_plan(job, plan, cache, as_json=say.json)
    elif say.json:
        print_json(result_json(made.bundle, made.engine))
    else:
        show_result(made.bundle, made.engine)


def _plan(job: Job, cache: Cache, progress: Progress) -> Estimate:
    from mimiq.stages.estimate import estimate

    with progress.stage("speed") as stage:
        stage.update(text="of this host, measured for a few seconds")
        return estimate(job, cache)


def _job(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    output: choices.OutChoice,
    progress: Progress,
) -> Job:
    from mimiq.spec import default_out

    model = values.load(choice, progress)
    wanted = values.precision_of(precision, model, images.recipe)
    out = output.out or default_out(choice.model, wanted.label, ".mimiq")
    preflight.require_new(out, output.force, MANIFEST)
    return replace(values.job_of(model, wanted, images, tuning, out), overwrite=output.force)


def _measured(job: Job, measurement: choices.MeasureChoice) -> Job:
    """The job with its measurements, whose images are looked at now."""
    job = replace(job, batches=() if measurement.no_bench else measurement.batches)
    folder = measurement.evaluation
    if folder is None:
        return job
    dataset = values.images_of(folder, job.model, measurement.eval_limit)
    return replace(job, evaluation=dataset, evaluation_name=str(folder))


def result_json(bundle: Bundle, built: BundleEngine | None) -> dict[str, Any]:
    """The report, where the bundle lies, and the engine's proof."""
    engine = engine_json(built) if built is not None else None
    report = bundle.report
    return {**(report.to_json() if report else {}), "bundle": str(bundle.path), "engine": engine}


def show_result(bundle: Bundle, built: BundleEngine | None) -> None:
    """The report's table, the engine's proof, and what to do next."""
    from mimiq.runtime.report.report import Report

    show_report(bundle.report or Report())
    path = shown(bundle.path)
    commands: dict[str, list[str | Path]] = {}
    if bundle.output == "logits":
        commands["what it loses on your images"] = ["mimiq", "eval", path, "DIR"]
    commands |= {
        "what is computed in which precision": ["mimiq", "inspect", path],
        "all of it as a page": ["mimiq", "report", path],
    }
    if built is not None:
        from mimiq.export.tensorrt.proof import proof_table

        show("", proof_table(built.proof, f"{built.engine_name}, built in {built.seconds:.1f} s"))
    else:
        commands["an engine, on the host that serves it"] = ["mimiq", "build", path]
    show(f"\nBundle: {path}", next_commands(commands))
