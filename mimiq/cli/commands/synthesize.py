"""``synthesize``: a calibration set without one real image."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import next_commands, print_json, show, working
from mimiq.cli.parameters import PATH, Whole
from mimiq.config.shard import Shard, parse_shard
from mimiq.config.synthesis import CALIBRATIONS, FORMATS
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.config.synthesis import SynthesisRecipe
    from mimiq.models import LoadedModel
    from mimiq.progress import Progress
    from mimiq.synthesis.driver import Unfinished


@click.command(
    cls=Command,
    short_help="Make a calibration set.",
    examples=(
        ("mimiq synthesize deit_t -o images/", "a calibration set for deit_t"),
        ("mimiq synthesize deit_t -o images/ --format npy", "also as another quantiser reads it"),
        ("mimiq synthesize deit_t -o images/ --shard 2/8", "the second of eight jobs' shares"),
    ),
)
@options.model_options
@options.images_options
@options.option(
    "Calibration",
    "--method",
    type=click.Choice(CALIBRATIONS),
    default="synthetic",
    show_default=True,
    help="MimiQ's images, PSAQ-ViT's (a baseline), or Gaussian noise (a control).",
)
@options.option(
    "Calibration",
    "--shard",
    metavar="I/N",
    help="Make the I-th of N shares of the set alone, beside jobs that make the others in the same "
    "folder; slurm takes both from the array that this job is a task of.",
)
@options.option("Output", "-o", "--out", type=PATH, required=True, help="Folder of the set.")
@options.option(
    "Output",
    "--format",
    "form",
    type=click.Choice(FORMATS),
    help="Also write them into the folder as other tools read them: images.npy or images.npz, the "
    "network's input, or images, a folder of PNG files. The recipe's scenes stand before them.",
)
@options.option(
    "Output",
    "--scenes",
    type=Whole(0),
    metavar="N",
    help="With --format: so many random scenes, instead of the recipe's.",
)
@options.say_options
def synthesize(
    choice: choices.ModelChoice,
    images: choices.ImagesChoice,
    method: str,
    shard: str | None,
    out: Path,
    form: str | None,
    scenes: int | None,
    say: choices.Say,
) -> None:
    """Make a calibration set for MODEL, without one real image.

    Every finished batch is kept: the same command goes on with an interrupted set.
    """
    preflight.require_model(choice.model)
    if scenes is not None and form is None:
        raise BadInput(
            "--scenes is of what --format writes, and none was given.",
            "Leave it out, or give --format npy, npz or png.",
        )
    part = None if shard is None else _shard(shard, method, form)

    from mimiq import ranks
    from mimiq.calibrate.formats import check_format
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.image_files import described
    from mimiq.synthesis.driver import Unfinished

    with ranks.joined() as group, working():
        progress = shown_progress(say.quiet or not group.first)
        with progress.stage("load"):
            model = values.load(choice, progress)
        if form is not None:
            check_format(form, model.preprocessing.channels)
        recipe = values.synthesis_of(images, choice.model)
        ranks.agree(values.facts(model, recipe=recipe, seed=images.seed or 0))
        made = _make(method, model, recipe, images, part, out, progress)
        if not group.first:
            return
        count = values.scenes_of(images, choice.model) if scenes is None else scenes
        written = _written(form, made, model, count, images.seed or 0)
    if isinstance(made, Unfinished):
        _show_unfinished(made, [*values.repeated(choice, images), "-o", out], say.json)
        return
    if say.json:
        found = {"path": str(out), "sha256": made.content_hash, "manifest": dict(made.manifest)}
        print_json(found | ({} if written is None else {"written": str(written)}))
        return
    command = ["mimiq-compile", *values.repeated(choice), "--calibration", out]
    show(
        f"{len(made)} images of {described(made.input_shape)}: {out}",
        next_commands({"calibrates and tunes on them": command}),
    )
    if written is not None:
        show(f"{count} random scenes and these, for other tools: {written}")


def _shard(text: str, method: str, form: str | None) -> Shard:
    if method != "synthetic":
        raise BadInput(
            f"--shard is for MimiQ's images, and --method {method} was given.", "Leave it out."
        )
    if form is not None:
        raise BadInput(
            "--format writes the whole set, and --shard makes a part of it.",
            "Give --format to the same command without --shard, once all shards are made.",
        )
    return parse_shard(text)


def _show_unfinished(found: Unfinished, arguments: Sequence[object], json: bool) -> None:
    """What was made, and the command for each shard that is missing."""
    missing = {str(shard): batches for shard, batches in sorted(found.missing.items())}
    if json:
        print_json({"path": str(found.path), "made": found.made, "missing": missing})
        return
    count = sum(len(batches) for batches in missing.values())
    show(
        f"{found.made} batches made: {found.path}",
        f"The set is finished once {count} more are there:",
        next_commands(
            {
                f"makes {len(batches)} of them": [
                    *("mimiq", "synthesize", *map(str, arguments), "--shard", shard)
                ]
                for shard, batches in missing.items()
            }
        ),
    )


def _written(
    form: str | None,
    made: CalibrationSet | Unfinished,
    model: LoadedModel,
    count: int,
    seed: int,
) -> Path | None:
    """Where scenes and images were written for other tools; None where nobody asked."""
    if form is None:
        return None
    from mimiq.calibrate import CalibrationSet
    from mimiq.calibrate.formats import write_images
    from mimiq.synthesis.scenes import scenes

    assert isinstance(made, CalibrationSet)  # --shard has no --format
    preprocessing = model.preprocessing
    size, channels = (preprocessing.height, preprocessing.width), preprocessing.channels
    drawn = [scenes(count, size, seed, channels=channels)] if count else []
    return write_images([*drawn, made.images()], preprocessing, form, made.path)


def _make(
    method: str,
    model: LoadedModel,
    recipe: SynthesisRecipe,
    images: choices.ImagesChoice,
    shard: Shard | None,
    out: Path,
    progress: Progress,
) -> CalibrationSet | Unfinished:
    from mimiq.synthesis.mimiq import synthesize as synthesize_mimiq
    from mimiq.synthesis.mimiq import synthesize_shard
    from mimiq.synthesis.psaq import synthesize_psaq

    seed = images.seed or 0
    if method == "noise":
        from mimiq import ranks
        from mimiq.calibrate import gaussian_noise

        preprocessing, count = model.preprocessing, recipe.images
        return ranks.first_before_others(lambda: gaussian_noise(preprocessing, count, seed, out))
    if shard is not None:
        return synthesize_shard(
            model, recipe, shard, seed=seed, out=out, device=images.device, progress=progress
        )
    function = synthesize_mimiq if method == "synthetic" else synthesize_psaq
    return function(model, recipe, seed=seed, out=out, device=images.device, progress=progress)
