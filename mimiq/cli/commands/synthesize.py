"""``synthesize``: a calibration set without one real image."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from mimiq.cli import choices, options, preflight, values
from mimiq.cli.commanding import Command
from mimiq.cli.output import next_commands, print_json, show, working
from mimiq.cli.parameters import PATH
from mimiq.config.synthesis import CALIBRATIONS, FORMATS
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.config.synthesis import SynthesisRecipe
    from mimiq.models import LoadedModel
    from mimiq.progress import Progress


@click.command(
    cls=Command,
    short_help="Make a calibration set.",
    examples=(
        ("mimiq synthesize deit_t -o images/", "a calibration set for deit_t"),
        ("mimiq synthesize deit_t -o images/ --format npy", "also as another quantiser reads it"),
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
    type=click.IntRange(0),
    metavar="N",
    help="With --format: so many random scenes, instead of the recipe's.",
)
@options.say_options
def synthesize(
    choice: choices.ModelChoice,
    images: choices.ImagesChoice,
    method: str,
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
    from mimiq.calibrate.formats import check_format
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.image_files import described

    progress = shown_progress(say.quiet)
    with working():
        with progress.stage("load"):
            model = values.load(choice, progress)
        if form is not None:
            check_format(form, model.preprocessing.channels)
        recipe = values.synthesis_of(images, choice.model)
        made = _make(method, model, recipe, images, out, progress)
        count = values.scenes_of(images, choice.model) if scenes is None else scenes
        written = _written(form, made, model, count, images.seed or 0)
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


def _written(
    form: str | None, made: CalibrationSet, model: LoadedModel, count: int, seed: int
) -> Path | None:
    """Where scenes and images were written for other tools; None where nobody asked."""
    if form is None:
        return None
    from mimiq.calibrate.formats import write_images
    from mimiq.synthesis.scenes import scenes

    preprocessing = model.preprocessing
    size, channels = (preprocessing.height, preprocessing.width), preprocessing.channels
    drawn = [scenes(count, size, seed, channels=channels)] if count else []
    return write_images([*drawn, made.images()], preprocessing, form, made.path)


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

        return gaussian_noise(model.preprocessing, recipe.images, images.seed or 0, out)
    from mimiq.synthesis.mimiq import synthesize as synthesize_mimiq
    from mimiq.synthesis.psaq import synthesize_psaq

    function = synthesize_mimiq if method == "synthetic" else synthesize_psaq
    return function(
        model, recipe, seed=images.seed or 0, out=out, device=images.device, progress=progress
    )
