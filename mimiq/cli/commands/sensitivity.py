"""``sensitivity``: which layers pay most for their quantisation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import next_commands, print_json, show, size, table, working
from mimiq.cli.parameters import Whole
from mimiq.config.synthesis import CALIBRATIONS
from mimiq.errors import BadInput
from mimiq.inputs import calibration_of

if TYPE_CHECKING:
    from mimiq.progress import Progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.spec import Job
    from mimiq.stages.sensitivity import Ranking

MANIFEST = "manifest.json"  # by which a bundle is known


@click.command(
    cls=Command,
    short_help="Rank layers by what their quantisation costs.",
    examples=(
        ("mimiq sensitivity deit_t --int4", "which layers pay most at INT4"),
        ("mimiq sensitivity deit_t-w4a8.mimiq --limit 5", "the same of a bundle, the first five"),
    ),
)
@options.model_options
@options.precision_options
@options.images_options
@options.option(
    "Calibration",
    "--calibration",
    metavar="SOURCE",
    help="As for mimiq-compile.  [default: synthetic, or what the bundle was made with]",
)
@options.option(
    "Output",
    "--limit",
    type=Whole(1),
    metavar="N",
    default=20,
    show_default=True,
    help="Rows of the table; --json has them all.",
)
@options.cache_option
@options.say_options
def sensitivity(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    calibration: str | None,
    limit: int,
    cache_dir: Path | None,
    say: choices.Say,
) -> None:
    """Rank the layers of MODEL, a network or a bundle, by what their quantisation costs.

    The gain of a layer is the divergence from full precision that its quantisation causes before
    tuning, less what it causes when it is raised to 8 bits, or from there to floating point. A
    bundle is measured at its own precision, on images made as its own were.
    """
    preflight.require_model(choice.model)
    values.check_precision(precision)
    if calibration is not None:
        calibration_of(calibration)

    from mimiq.cache import Cache, default_cache_dir
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.stages.images import calibration_set, tuning_images
    from mimiq.stages.ranking import RankUnits

    progress = shown_progress(say.quiet)
    cache = Cache(cache_dir or default_cache_dir(), progress.note)
    with working():
        with progress.stage("load") as loading:
            loading.update(text=choice.model)
            job = _job(choice, precision, images, calibration, progress)
        drawn = calibration_set(job, cache, progress)
        stage = RankUnits.of(job, drawn, tuning_images(job, drawn))
        found = cache.run(stage, progress)
    if say.json:
        model = {"model": job.model.name, "precision": job.precision.to_json()}
        print_json(model | found.to_json())
        return
    _show(job, found, limit)
    if not (Path(choice.model) / MANIFEST).is_file():
        command = ["mimiq-compile", *values.repeated(choice, precision, images)]
        command += [] if calibration is None else ["--calibration", calibration]
        command += ["--max-drop", "1"]
        show(next_commands({"raises what it takes to lose a point at most": command}))


def _job(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    calibration: str | None,
    progress: Progress,
) -> Job:
    if (Path(choice.model) / MANIFEST).is_file():
        return _job_of_bundle(choice, precision, images, calibration)
    model = values.load(choice, progress)
    wanted = values.precision_of(precision, model, images.recipe)
    tuning = choices.TuningChoice(calibration or "synthetic", steps=None)
    return values.job_of(model, wanted, images, tuning, Path())


def _job_of_bundle(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    calibration: str | None,
) -> Job:
    """What the bundle was compiled from; its network must be at hand."""
    from mimiq.runtime.bundle import Bundle

    if precision != choices.PrecisionChoice():
        raise BadInput(
            "A bundle brings its own precision, and another was given.",
            "Leave it out, or give the model in the place of the bundle.",
        )
    bundle = Bundle(choice.model)
    manifest = bundle.manifest
    try:
        model = values.load(replace(choice, model=bundle.model_name))
        model = replace(model, preprocessing=bundle.preprocessing)
        recipe = manifest.recipes
        own_images = recipe["synthesis"]["images"] if calibration is None else None
        asked = replace(
            images,
            recipe=images.recipe or recipe["name"],
            images=images.images or own_images,
            seed=manifest.seed if images.seed is None else images.seed,
        )
        expected = manifest.weights_sha256
    except (KeyError, TypeError) as error:
        raise BadInput(
            f"{bundle.path / MANIFEST} does not say how it was made: {error}.",
            "Compile the model again, or give the model in the place of the bundle.",
        ) from error
    if model.weights_hash != expected:
        raise BadInput(
            f"{bundle.path} was made from other weights than those of {model.name} here.",
            "Give the --weights it was compiled from.",
        )
    tuning = choices.TuningChoice(calibration or _source(bundle), steps=None)
    return values.job_of(model, bundle.precision, asked, tuning, Path())


def _source(bundle: Bundle) -> str:
    """How the bundle's calibration images can be had again."""
    kind = bundle.manifest.calibration_kind
    if kind in CALIBRATIONS:
        return str(kind)
    raise BadInput(
        f"{bundle.path} was calibrated on images of its own ({kind}).",
        "Give their folder, or synthetic, with --calibration.",
    )


def _show(job: Job, found: Ranking, limit: int) -> None:
    embeds = job.model.output == "embedding"
    divergence = "relative squared error" if embeds else "KL divergence"
    rows: list[tuple[object, ...]] = []
    for one in found.units[:limit]:
        unit = one.unit
        share = f"{one.gain / found.loss:+.1%}" if found.loss > 0 else "–"
        rows.append(
            (
                unit.name,
                unit.now,
                unit.raised,
                f"{one.gain:.3g}",
                share,
                f"+{size(unit.extra_bytes)}",
            )
        )
    show(
        f"{job.model.name} at {job.precision.label}: {divergence} {found.loss:.3g} from full "
        f"precision, on {found.images} calibration images, before tuning\n",
        table(("layer", "now", "raised", "gain", "of the whole", "bytes"), rows),
    )
    if len(found.units) > limit:
        show(f"… and {len(found.units) - limit} more; --limit shows them.")
