"""From what a person asks for to a :class:`~mimiq.spec.Job`: the command line and Python alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.config.command import compile_command
from mimiq.config.precision import Precision
from mimiq.config.recipes import changed, default_recipe, recipe_for
from mimiq.devices import pick_device
from mimiq.errors import BadInput
from mimiq.inputs import (
    Early,
    budget_of,
    calibration_of,
    check_count,
    check_early,
    dataset_of,
    labels_of,
)
from mimiq.models import LoadedModel, load_model
from mimiq.models.memory import load_module
from mimiq.models.names import check_name
from mimiq.models.precisions import precision_for
from mimiq.outputs import require_new
from mimiq.progress import SILENT, Progress
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.targets import GRAPH
from mimiq.spec import EngineSpec, Job, default_out


def job_for(
    model: str | Path | nn.Module | LoadedModel,
    precision: str | Precision = "int8",
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    labels: str | Path | Sequence[str] | None = None,
    block_size: int | None = None,
    uniform: bool = False,
    max_drop: float | None = None,
    size_budget: str | None = None,
    calibration: str | Path = "synthetic",
    recipe: str | None = None,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    evaluation: str | Path | LabelledImages | None = None,
    eval_limit: int | None = None,
    batches: Sequence[int] = (1, 8, 32),
    target: str = "auto",
    allow_fallback: bool = False,
    fp8: bool = False,
    overwrite: bool = False,
    progress: Progress = SILENT,
    **loading: Any,
) -> Job:
    """A compilation as :func:`mimiq.compile` takes it, everything looked at and the network loaded.

    Raises:
        MimiqError: whatever of it cannot be; nothing slow was done for it.
    """
    batches = tuple(batches)
    asked = {**locals(), **loading}
    early = Early(
        out=out,
        overwrite=overwrite,
        calibration=calibration,
        images=images,
        evaluation=evaluation,
        eval_limit=eval_limit,
        max_drop=max_drop,
        size_budget=size_budget,
        target=target,
        fp8=fp8,
    )
    check_early(precision, early)
    budget = budget_of(max_drop, size_budget)
    with progress.stage("load") as stage:
        stage.update(text=_called(model))
        network = _network(model, weights, preprocessing, labels, loading)
    for note in network.notes:
        progress.note(note)
    # As published, the classifier has the bits of other layers.
    alike = uniform or (recipe == "paper" and isinstance(precision, str))
    wanted = precision_for(network, precision, block_size=block_size, uniform=alike)
    place = Path(out) if out is not None else default_out(network.name, wanted.label)
    require_new(place, overwrite)
    job = job_of(
        network,
        wanted,
        out=place,
        calibration=calibration_of(calibration),
        recipe=recipe,
        images=images,
        steps=steps,
        seed=seed,
        device=device,
    )
    dataset, name = _evaluation(evaluation, eval_limit, network)
    for note in getattr(dataset, "notes", ()):
        progress.note(note)
    return replace(
        job,
        evaluation=dataset,
        evaluation_name=name,
        batches=batches,
        overwrite=overwrite,
        budget=budget,
        engine=None if target == GRAPH else EngineSpec(target, allow_fallback, fp8),
        command=_command(model, precision, asked),
    )


def job_of(
    model: LoadedModel,
    precision: Precision,
    *,
    out: Path,
    calibration: str | Path,
    recipe: str | None = None,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
) -> Job:
    """A compilation without measurements and engine.

    Args:
        calibration: as :func:`mimiq.inputs.calibration_of` gives it.
        recipe: None for the one that suits network and device.
        images, steps: where they are not as in the recipe.

    Raises:
        BadInput, EnvironmentLacks: an unknown recipe, an unknown or absent device, or a number of
            images where the set decides it.
    """
    check_count(calibration, images)
    name = recipe or default_recipe(model.name, pick_device(device).type)
    return Job(
        model=model,
        precision=precision,
        recipe=changed(recipe_for(name, precision), images, steps),
        out=out,
        calibration=calibration,
        seed=seed,
        device=device,
        batches=(),
    )


def _command(
    model: str | Path | nn.Module | LoadedModel, precision: str | Precision, asked: dict[str, Any]
) -> str | None:
    """The same on the command line; None for what has no name there."""
    images = asked["evaluation"]
    if (
        not isinstance(model, str | Path)
        or isinstance(precision, Precision)
        or not isinstance(images, str | Path | None)
        or (asked["labels"] is not None and not isinstance(asked["labels"], str | Path))
    ):
        return None
    by_default = {name: each.default for name, each in signature(job_for).parameters.items()}
    apart = {"model", "precision", "out", "overwrite", "progress", "loading"}
    given = {
        name: value
        for name, value in asked.items()
        if name not in apart and value is not None and value != by_default.get(name)
    }
    return compile_command(str(model), precision, given)


def _called(model: str | Path | nn.Module | LoadedModel) -> str:
    if isinstance(model, str | Path):
        return str(model)
    return model.name if isinstance(model, LoadedModel) else type(model).__name__


def _network(
    model: str | Path | nn.Module | LoadedModel,
    weights: str | Path | None,
    preprocessing: Preprocessing | None,
    labels: str | Path | Sequence[str] | None,
    loading: dict[str, Any],
) -> LoadedModel:
    names = None if labels is None else labels_of(labels)
    if isinstance(model, str | Path):
        if preprocessing is not None:
            raise BadInput(
                "`preprocessing` is for a network in memory, and a name was given.",
                "Give `image_size`, `mean`, `std`, `crop_pct` and the like.",
            )
        check_name(str(model))
        return load_model(str(model), weights=weights, labels=names, **loading)
    if weights is not None:
        raise BadInput(
            "`weights` is for a name, and a network in memory was given.",
            "Load them into it, or give the name of its architecture.",
        )
    if isinstance(model, nn.Module):
        return load_module(model, preprocessing=preprocessing, labels=names, **loading)
    if loading or preprocessing is not None:
        raise BadInput(
            "A loaded network has its preprocessing, and was loaded as it is.",
            "Give `preprocessing` and what loading needs to mimiq.load_model.",
        )
    return model if names is None else replace(model, labels=names)


def _evaluation(
    source: str | Path | LabelledImages | None, limit: int | None, model: LoadedModel
) -> tuple[LabelledImages | None, str | None]:
    if isinstance(source, str | Path):
        return dataset_of(Path(source), model, limit), str(source)
    return source, None if source is None else "images in memory"
