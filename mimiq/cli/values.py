"""From what was chosen on the command line to the values that the stages take."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.cli.choices import (
    ImagesChoice,
    ModelChoice,
    PrecisionChoice,
    TuningChoice,
)
from mimiq.config.command import flag_for
from mimiq.config.precision import Block, LayerPrecision, Precision, parse_bits
from mimiq.errors import BadInput
from mimiq.inputs import calibration_of, dataset_of, labels_of
from mimiq.models.precisions import precision_for
from mimiq.progress import SILENT, Progress

if TYPE_CHECKING:
    from mimiq.config.synthesis import SynthesisRecipe
    from mimiq.models import LoadedModel
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.datasets import ImageFiles
    from mimiq.spec import Job


def check_precision(choice: PrecisionChoice) -> None:
    """Refuse contradictions that need no model to be seen.

    Raises:
        BadInput: more than one precision, block scales with quantised activations, unknown widths.
    """
    given = [flag for flag in ("int8", "int4", "bits") if getattr(choice, flag)]
    if len(given) > 1:
        flags = " and ".join(f"--{flag}" for flag in given)
        raise BadInput(f"{flags} exclude each other.", "Choose one precision.")
    if choice.weight_only and not (choice.int4 or choice.bits):
        raise BadInput(
            "--weight-only goes with --int4 or --bits wXa16.",
            "For INT8 weights and float activations use --bits w8a16.",
        )
    weight_bits, activation_bits = _widths(choice)
    if choice.weight_only and choice.bits and activation_bits is not None:
        raise BadInput(
            f"--weight-only contradicts the {activation_bits}-bit activations of {choice.bits}.",
            f"Use --bits w{weight_bits}a16, or leave out --weight-only.",
        )
    if choice.block_size is not None and not choice.weight_only:
        LayerPrecision(weight_bits, Block(choice.block_size), activation_bits)


def precision_name(choice: PrecisionChoice) -> str:
    """The chosen precision as :func:`mimiq.compile` names it; INT8 where none was chosen."""
    weight_bits, activation_bits = _widths(choice)
    if choice.weight_only:
        return f"int{weight_bits}-weight-only"
    return f"w{weight_bits}a{activation_bits or 16}"


def precision_of(
    choice: PrecisionChoice, model: LoadedModel, recipe: str | None = None
) -> Precision:
    """The chosen precision for this network; INT8 where none was chosen.

    With the recipe ``paper`` the classifier has the bits of every other Linear, as it has there.

    Raises:
        BadInput: a block size that does not divide a Linear's inputs, or where none does.
    """
    check_precision(choice)
    return precision_for(
        model,
        precision_name(choice),
        block_size=choice.block_size,
        uniform=choice.uniform or recipe == "paper",
    )


def loading(choice: ModelChoice) -> dict[str, Any]:
    """What :func:`mimiq.load_model` is told beside the name, weights and labels.

    Raises:
        BadInput: one of mean and deviation without the other.
    """
    if (choice.mean is None) != (choice.std is None):
        raise BadInput("--mean and --std belong together.", "Give both, or neither.")
    apart = ("model", "weights", "labels")
    return {
        field.name: getattr(choice, field.name)
        for field in fields(choice)
        if field.name not in apart and getattr(choice, field.name) != field.default
    }


def load(choice: ModelChoice, progress: Progress = SILENT) -> LoadedModel:
    """Load the chosen network, and say what was decided on the way.

    Errors as :func:`mimiq.models.load_model`.
    """
    from mimiq.models import load_model

    labels = labels_of(choice.labels) if choice.labels else None
    model = load_model(choice.model, weights=choice.weights, labels=labels, **loading(choice))
    for note in model.notes:
        progress.note(note)
    return model


def facts(model: LoadedModel, **more: object) -> dict[str, str]:
    """What all ranks of a run must have in common, by name; see :func:`mimiq.ranks.agree`."""
    import torch

    from mimiq.version import __version__

    return {
        "version of mimiq": __version__,
        "version of PyTorch": torch.__version__,
        "network (hash of the weights)": model.weights_hash,
        **{name: str(value) for name, value in more.items()},
    }


def repeated(model: ModelChoice, *more: PrecisionChoice | ImagesChoice) -> list[str]:
    """The arguments that name this network, and what else was chosen, for commands to try next."""
    arguments = [model.model]
    chosen: tuple[ModelChoice | PrecisionChoice | ImagesChoice, ...] = (model, *more)
    for choice in chosen:
        for field in fields(choice):
            value = getattr(choice, field.name)
            if field.name != "model" and value != field.default:
                arguments += flag_for(field.name, value)
    return arguments


def recipe_name(choice: ImagesChoice, model: str) -> str:
    """The chosen recipe, or what suits model and device.

    Raises:
        BadInput, EnvironmentLacks: the device is unknown or absent.
    """
    from mimiq.config.recipes import default_recipe
    from mimiq.devices import pick_device

    device = pick_device(choice.device)
    return choice.recipe or default_recipe(model, device.type)


def synthesis_of(images: ImagesChoice, model: str) -> SynthesisRecipe:
    """The part of the recipe that makes images."""
    from mimiq.config.recipes import resized
    from mimiq.config.synthesis import SYNTHESIS_RECIPES

    return resized(SYNTHESIS_RECIPES[recipe_name(images, model)], images.images)


def scenes_of(images: ImagesChoice, model: str) -> int:
    """How many random scenes the recipe shows beside synthetic images."""
    from mimiq.config.precision import int8
    from mimiq.config.recipes import recipe_for

    return recipe_for(recipe_name(images, model), int8()).procedural


def images_of(folder: Path, answered: LoadedModel | Bundle, limit: int | None) -> ImageFiles:
    """Images to measure on, as :func:`mimiq.inputs.dataset_of`; its notes are printed."""
    from mimiq.cli.failures import print_message

    dataset = dataset_of(folder, answered, limit)
    for note in dataset.notes:
        print_message(note, "yellow", "note: ")
    return dataset


def job_of(
    model: LoadedModel,
    precision: Precision,
    images: ImagesChoice,
    tuning: TuningChoice,
    out: Path,
) -> Job:
    """A compilation without measurements and engine."""
    from mimiq import jobs

    return jobs.job_of(
        model,
        precision,
        out=out,
        calibration=calibration_of(tuning.calibration),
        recipe=images.recipe,
        images=images.images,
        steps=tuning.steps,
        seed=images.seed or 0,
        device=images.device,
    )


def _widths(choice: PrecisionChoice) -> tuple[int, int | None]:
    if choice.bits:
        return parse_bits(choice.bits)
    if choice.int4:
        return 4, None if choice.weight_only else 8
    return 8, 8
