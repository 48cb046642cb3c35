"""What a person gives, checked before the work: from the command line and from Python alike."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from mimiq.config.synthesis import CALIBRATIONS
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.config.budget import Budget
    from mimiq.models import LoadedModel
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.datasets import ImageFiles


def linear_inputs(model: LoadedModel) -> dict[str, int]:
    """How many inputs each Linear has, by its name."""
    from mimiq.models import quantizable_layers

    layers = quantizable_layers(model.module)
    return {name: layer.weight.shape[1] for name, layer in layers.items() if layer.weight.ndim == 2}


def check_budget(budget: Budget | None, model: LoadedModel) -> None:
    """Refuse a limit that this network has no measure for.

    Raises:
        BadInput: points of top-1, and the network has no classifier.
    """
    if budget is not None and budget.max_drop is not None and model.output == "embedding":
        raise BadInput(
            f"`max_drop` is in points of top-1, and {model.name} answers with an embedding.",
            "Leave it out: the cosine with full precision is measured, and `size_budget` raises "
            "the layers that pay most.",
        )


def calibration_of(source: str | Path) -> str | Path:
    """The named source, or the folder of images or of a finished set.

    Raises:
        BadInput: it is neither, or a folder that may not be read.
    """
    if source in CALIBRATIONS:
        return source
    folder = Path(source)
    if not folder.is_dir():
        problem = "is a file" if folder.exists() else "does not exist"
        raise BadInput(
            f"`calibration={source}` {problem}.",
            f"Give a folder of images, a finished set, or one of {', '.join(CALIBRATIONS)}.",
        )
    if not os.access(folder, os.R_OK | os.X_OK):
        raise BadInput(f"`calibration={source}` may not be read.", "Check its permissions.")
    return folder


def check_count(calibration: str | Path, images: int | None) -> None:
    """Refuse a number of images where the set decides it.

    Raises:
        BadInput: a finished set was given.
    """
    from mimiq.calibrate import CalibrationSet

    if images is not None and isinstance(calibration, Path) and CalibrationSet.is_set(calibration):
        raise BadInput(
            f"{calibration} is a finished calibration set, and is taken whole.",
            "Leave out `images`, or give a folder of images.",
        )


def dataset_of(
    folder: Path, answered: LoadedModel | Bundle, limit: int | None = None
) -> ImageFiles:
    """Images to measure a network on, whose every file looks like an image.

    Args:
        folder: labelled images; of a network without a classifier any, in the folder or below it.
        answered: the network, or its bundle. One output tells the classes 0 and 1 apart.
        limit: at most so many, evenly spread.

    Raises:
        BadInput: as :func:`mimiq.runtime.open_dataset`, or naming a file that is no image.
    """
    from mimiq.calibrate.sources import image_files
    from mimiq.runtime.evaluation.datasets import unlabelled
    from mimiq.runtime.evaluation.labelled_folders import open_dataset
    from mimiq.runtime.image_files import DEEP, check_file

    channels = answered.preprocessing.channels
    if answered.output == "embedding":
        dataset = unlabelled(image_files(folder, channels), limit)
    else:
        classes = max(answered.num_classes, 2)
        dataset = open_dataset(folder, classes, limit, labels=answered.labels, channels=channels)
    deep = [check_file(path, channels) for path, _ in dataset]
    return replace(dataset, notes=(*dataset.notes, DEEP)) if any(deep) else dataset
