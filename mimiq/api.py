"""All that ``mimiq-compile`` does, as one call."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.cache import Cache, default_cache_dir
from mimiq.compiler import compile_model
from mimiq.config.budget import Budget, parse_size
from mimiq.config.precision import Precision, from_bits, largest_block, parse_bits, weight_only
from mimiq.config.recipes import changed, default_recipe, recipe_for
from mimiq.devices import pick_device
from mimiq.errors import BadInput
from mimiq.inputs import calibration_of, check_budget, check_count, dataset_of, linear_inputs
from mimiq.models import LoadedModel, load_model
from mimiq.models.memory import load_module
from mimiq.models.names import check_name
from mimiq.progress import SILENT, CallbackProgress, Progress
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.evaluation.datasets import LabelledImages
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.spec import EngineSpec, Job, default_out

NAMED = {"int8": "w8a8", "int4": "w4a8"}
"""Names of precisions, and the bits that each stands for."""
WEIGHT_ONLY = re.compile(r"int([2-8])-weight-only")


def compile(
    model: str | Path | nn.Module | LoadedModel,
    precision: str | Precision = "int8",
    *,
    out: str | Path | None = None,
    weights: str | Path | None = None,
    preprocessing: Preprocessing | None = None,
    labels: Sequence[str] | None = None,
    evaluation: str | Path | LabelledImages | None = None,
    calibration: str | Path = "synthetic",
    recipe: str | None = None,
    images: int | None = None,
    steps: int | None = None,
    seed: int = 0,
    device: str = "auto",
    max_drop: float | None = None,
    size_budget: str | None = None,
    target: str = "auto",
    batches: Sequence[int] = (1, 8, 32),
    overwrite: bool = False,
    cache: str | Path | None = None,
    progress: Progress | Callable[[str, int, int | None, str], object] | None = None,
    **loading: Any,
) -> Bundle:
    """Compile a trained vision transformer to a checked, quantised bundle, without one real image.

    The same stages, in the same order and with the same cache, as ``mimiq-compile``.

    Args:
        model: a name or a folder, as for ``mimiq-compile``; or a network in memory, of timm's,
            transformers' or torchvision's, which is left as it is; or what
            :func:`mimiq.load_model` gave.
        precision: ``int8``, ``int4`` (INT4 weights, INT8 activations), ``int4-weight-only``,
            ``wXaY``, or a :class:`mimiq.Precision`.
        out: the bundle's folder; None for ``NAME-PRECISION.mimiq`` in the current one.
        weights: a checkpoint, for a name.
        preprocessing: from image file to network input, for a network in memory whose own is not
            known.
        labels: class names in order.
        evaluation: what to measure accuracy on: a folder as of ``mimiq eval``, or images.
        calibration: ``synthetic``, ``psaq``, ``noise``, a folder of images, or a finished set.
        recipe: ``cpu``, ``gpu``, ``paper`` or ``tiny``; None for the one that suits the device.
        images, steps: how many are synthesised, and how long the network is distilled, where that
            is not as in the recipe.
        seed: fixes the whole run on one machine.
        device: ``auto``, ``cpu`` or ``cuda``.
        max_drop: points of top-1 that may be lost: layers are raised to more bits for it.
        size_budget: the most that the graph may take: ``4MB``, or ``0.6x`` of full precision.
        target: the engine: ``auto`` for what this host can build, ``rtx``, ``trt``, or ``ort`` for
            none.
        batches: sizes whose latency is measured; none to skip it.
        overwrite: replace a bundle that is at ``out``.
        cache: folder of finished stages; None for the user's.
        progress: told of every stage: a :class:`mimiq.Progress`, or a function of the stage's name,
            the steps done, those in all (or None) and a few words.
        **loading: more for :func:`mimiq.load_model`: ``num_classes``, ``image_size``,
            ``model_kwargs``, …

    Returns:
        The bundle, with its report and, where one was built, its engine.

    Raises:
        MimiqError: whatever was wrong, as one sentence with a next step; finished stages stay in
            the cache, and the same call goes on from there.
    """
    told = _progress(progress)
    with told.stage("load"):
        network = _network(model, weights, preprocessing, labels, loading)
    for note in network.notes:
        told.note(note)
    wanted = precision_for(network, precision)
    chosen = recipe or default_recipe(network.name, pick_device(device).type)
    dataset, name = _evaluation(evaluation, network)
    for note in getattr(dataset, "notes", ()):
        told.note(note)
    source = calibration_of(calibration)
    check_count(source, images)
    size = parse_size(size_budget) if size_budget is not None else None
    budget = None if max_drop is None and size is None else Budget(max_drop, size)
    check_budget(budget, network)
    job = Job(
        model=network,
        precision=wanted,
        recipe=changed(recipe_for(chosen, wanted), images, steps),
        out=Path(out) if out is not None else default_out(network.name, wanted.label),
        calibration=source,
        seed=seed,
        device=device,
        evaluation=dataset,
        evaluation_name=name,
        batches=tuple(batches),
        overwrite=overwrite,
        budget=budget,
        engine=None if target == "ort" else EngineSpec(target),
    )
    folder = default_cache_dir() if cache is None else Path(cache)
    return compile_model(job, Cache(folder, told.note), told).bundle


def precision_for(model: LoadedModel, precision: str | Precision) -> Precision:
    """The precision of this name, with blocks that suit the network.

    Raises:
        BadInput: the name is unknown, a width is not supported, or no block size suits.
    """
    if isinstance(precision, Precision):
        return precision
    if match := WEIGHT_ONLY.fullmatch(precision):
        return weight_only(int(match[1]), largest_block(linear_inputs(model).values()))
    try:
        return from_bits(*parse_bits(NAMED.get(precision, precision)))
    except BadInput as error:
        raise BadInput(
            f"`precision={precision}` is unknown: {error.problem}",
            f"Choose {', '.join(NAMED)}, int4-weight-only, or wXaY, for example w4a4.",
        ) from error


def _network(
    model: str | Path | nn.Module | LoadedModel,
    weights: str | Path | None,
    preprocessing: Preprocessing | None,
    labels: Sequence[str] | None,
    loading: dict[str, Any],
) -> LoadedModel:
    names = None if labels is None else tuple(labels)
    if isinstance(model, str | Path):
        if preprocessing is not None:
            raise BadInput(
                "`preprocessing` is for a network in memory, and a name was given.",
                "Give `image_size`, `mean`, `std`, `crop_pct` and the like.",
            )
        check_name(str(model))
        file = None if weights is None else Path(weights)
        return load_model(str(model), weights=file, labels=names, **loading)
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
    source: str | Path | LabelledImages | None, model: LoadedModel
) -> tuple[LabelledImages | None, str | None]:
    if not isinstance(source, str | Path):
        return source, None if source is None else "images in memory"
    return dataset_of(Path(source), model), str(source)


def _progress(
    told: Progress | Callable[[str, int, int | None, str], object] | None,
) -> Progress:
    if told is None:
        return SILENT
    return told if isinstance(told, Progress) else CallbackProgress(told)
