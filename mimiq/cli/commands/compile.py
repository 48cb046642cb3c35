"""``mimiq-compile``: from a trained network to a checked, quantised bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.dry_run import show_plan
from mimiq.cli.engines import engine_json
from mimiq.cli.output import next_commands, print_json, show, show_report, shown, working
from mimiq.inputs import Early, check_early

if TYPE_CHECKING:
    from mimiq.cache import Cache
    from mimiq.compiler import Compiled
    from mimiq.progress import Progress
    from mimiq.spec import Job
    from mimiq.stages.estimate import Estimate


@click.command(
    "compile",
    cls=Command,
    short_help="From a trained network to a checked bundle.",
    examples=(
        ("mimiq-compile digits --int4", "the network that comes with mimiq, offline"),
        (
            "mimiq-compile deit_s --int8 --eval imagenet/val",
            "timm's weights, measured on your images",
        ),
        ("mimiq-compile deit_t --int4 --weights deit_tiny.safetensors", "your own checkpoint"),
        (
            "mimiq-compile ./my-vit --int4 --max-drop 1",
            "a folder of transformers; at most a point lost",
        ),
        ("mimiq-compile vit_b --int4 --dry-run", "what it would do, and for how long"),
    ),
)
@options.model_options
@options.precision_options
@options.budget_options
@options.images_options
@options.tuning_options
@options.measure_options
@options.engine_options
@options.out_options("MODEL-PRECISION.mimiq")
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
    early = Early(
        out=output.out,
        overwrite=output.force,
        calibration=tuning.calibration,
        images=images.images,
        evaluation=measurement.evaluation,
        eval_limit=measurement.eval_limit,
        max_drop=budget.max_drop,
        size_budget=budget.size_budget,
        target=engine.target,
        fp8=engine.fp8,
    )
    check_early(values.precision_name(precision), early)

    from mimiq import ranks
    from mimiq.cache import default_cache_dir
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.compiler import compile_model, help_compile
    from mimiq.jobs import job_for
    from mimiq.stages.shared_cache import cache_for

    with ranks.joined() as group, working():
        progress = shown_progress(say.quiet or not group.first)
        job = job_for(
            choice.model,
            values.precision_name(precision),
            weights=choice.weights,
            labels=choice.labels,
            block_size=precision.block_size,
            uniform=precision.uniform,
            recipe=images.recipe,
            steps=tuning.steps,
            seed=images.seed or 0,
            device=images.device,
            batches=() if measurement.no_bench else measurement.batches,
            allow_fallback=engine.allow_fallback,
            progress=progress,
            **early,
            **values.loading(choice),
        )
        ranks.agree(values.facts(job.model, **facts_of(job)))
        cache = cache_for(cache_dir or default_cache_dir(), progress)
        if dry_run and group.first:
            plan = _plan(job, cache, progress)
        elif group.first:
            made = compile_model(job, cache, progress)
        else:
            if not dry_run:
                help_compile(job, cache, progress)
            return
    if dry_run:
        show_plan(job, plan, cache, as_json=say.json)
    elif say.json:
        print_json(result_json(made))
    else:
        show_result(made)


def facts_of(job: Job) -> dict[str, object]:
    """What decides a compilation's result, beside its network."""
    return {
        "precision": job.precision.to_json(),
        "recipe": job.recipe.to_json(),
        "calibration": job.calibration,
        "seed": job.seed,
        "budget": job.budget,
    }


def _plan(job: Job, cache: Cache, progress: Progress) -> Estimate:
    from mimiq.stages.estimate import estimate

    with progress.stage("speed") as stage:
        stage.update(text="of this host, measured for a few seconds")
        return estimate(job, cache)


def result_json(made: Compiled) -> dict[str, Any]:
    """The report, where the bundle lies, the engine's proof, and the fastest backend."""
    report = made.bundle.report
    return {
        **(report.to_json() if report else {}),
        "bundle": str(made.bundle.path),
        "engine": None if made.engine is None else engine_json(made.engine),
        "fastest": None if made.fastest is None else made.fastest.to_json(),
    }


def show_result(made: Compiled) -> None:
    """The report's table, the engine's proof, the fastest backend, and what to do next."""
    from mimiq.runtime.report.report import Report

    bundle = made.bundle
    show_report(bundle.report or Report())
    path = shown(bundle.path)
    commands: dict[str, list[str | Path]] = {}
    if bundle.output == "logits":
        commands["what it loses on your images"] = ["mimiq", "eval", path, "DIR"]
    commands |= {
        "what is computed in which precision": ["mimiq", "inspect", path],
        "all of it as a page": ["mimiq", "report", path],
    }
    if made.engine is not None:
        from mimiq.export.tensorrt.proof import proof_table

        title = f"{made.engine.engine_name}, built in {made.engine.seconds:.1f} s"
        show("", proof_table(made.engine.proof, title))
    else:
        commands["an engine, on the host that serves it"] = ["mimiq", "build", path]
    if made.fastest is not None:
        show(f"\nFastest on this CPU: {made.fastest.best}, which `auto` opens here from now on.")
        show(*(f"• {note}" for note in made.fastest.notes))
    show(f"\nBundle: {path}", next_commands(commands))
