"""What a person gives, checked before the work: from the command line and from Python alike."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mimiq.config.budget import Budget, parse_size
from mimiq.config.precision import Precision
from mimiq.config.synthesis import CALIBRATIONS
from mimiq.errors import BadInput, EnvironmentLacks, missing_extra
from mimiq.files import exhausted
from mimiq.models.precisions import widths_of
from mimiq.outputs import require_folder, require_new
from mimiq.runtime.targets import GRAPH, TARGETS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mimiq.models import LoadedModel
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.datasets import ImageFiles, LabelledImages


class Early(TypedDict):
    """What of a compilation's arguments can be refused without its network; see
    :func:`mimiq.compile`.
    """

    out: str | Path | None
    overwrite: bool
    calibration: str | Path
    images: int | None
    evaluation: str | Path | LabelledImages | None
    eval_limit: int | None
    max_drop: float | None
    size_budget: str | None
    target: str
    fp8: bool


def check_early(precision: str | Precision, asked: Early) -> None:
    """Refuse what cannot be, before anything slow begins.

    Raises:
        BadInput: a value that cannot be, a place or a folder that cannot be used.
        EnvironmentLacks: an engine that this host cannot build.
    """
    if isinstance(precision, str):
        widths_of(precision)
    out, evaluation = asked["out"], asked["evaluation"]
    if out is not None:
        require_new(Path(out), asked["overwrite"])
    if isinstance(evaluation, str | Path):
        _refuse_empty("evaluation", evaluation)
        require_folder(Path(evaluation), f"`evaluation={evaluation}`", "a folder of images")
    elif asked["eval_limit"] is not None:
        raise BadInput(
            "`eval_limit` is of the images in a folder, and none were given.",
            "Leave it out, or give a folder as `evaluation`.",
        )
    check_count(calibration_of(asked["calibration"]), asked["images"])
    budget_of(asked["max_drop"], asked["size_budget"])
    _check_target(asked["target"])
    _check_fp8(asked["fp8"], precision, asked["target"])


def budget_of(max_drop: float | None, size_budget: str | None) -> Budget | None:
    """The budget; None where there is no limit.

    Raises:
        BadInput: a number of points or a size that is none.
    """
    if max_drop is None and size_budget is None:
        return None
    return Budget(max_drop, None if size_budget is None else parse_size(size_budget))


def calibration_of(source: str | Path) -> str | Path:
    """The named source, or the folder of images or of a finished set.

    Raises:
        BadInput: it is neither, empty text, or a folder that may not be read.
    """
    if source in CALIBRATIONS:
        return source
    _refuse_empty("calibration", source)
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
    from mimiq.calibrate.sources import images_and_note
    from mimiq.runtime.evaluation.datasets import unlabelled
    from mimiq.runtime.evaluation.labelled_folders import open_dataset
    from mimiq.runtime.image_files import DEEP, check_file

    channels = answered.preprocessing.channels
    if answered.output == "embedding":
        found, note = images_and_note(folder, channels)
        dataset = unlabelled(found, limit)
        dataset = dataset if note is None else replace(dataset, notes=(note,))
    else:
        classes = max(answered.num_classes, 2)
        dataset = open_dataset(folder, classes, limit, labels=answered.labels, channels=channels)
    deep = [check_file(path, channels) for path, _ in dataset]
    return replace(dataset, notes=(*dataset.notes, DEEP)) if any(deep) else dataset


def labels_of(labels: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Class names: as they are, or of a text file with one a line.

    Raises:
        BadInput: the file cannot be read, or a line is empty.
    """
    if not isinstance(labels, str | Path):
        return tuple(labels)
    try:
        # Windows' editors put a byte-order mark before UTF-8.
        text = Path(labels).read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise exhausted(error, f"{labels} cannot be read") or BadInput(
            f"Labels file {labels} cannot be read: {getattr(error, 'strerror', None) or error}.",
            "Give a UTF-8 text file with one class name a line.",
        ) from error
    names = tuple(line.strip() for line in text.rstrip("\n").split("\n"))
    for number, name in enumerate(names, start=1):
        if not name:
            raise BadInput(f"{labels}, line {number} is empty.", "Give one class name a line.")
    return names


def _refuse_empty(parameter: str, folder: str | Path) -> None:
    """Refuse what a shell makes of a variable that is not set; as a path it is this folder."""
    if folder == "":
        raise BadInput(
            f"`{parameter}` is empty text, and names no folder.",
            "Give the folder; the current one is `.`.",
        )


def _check_target(target: str) -> None:
    """Refuse an engine that was asked for by name and cannot be built on this host.

    Raises:
        BadInput: the name is unknown.
        EnvironmentLacks: the product is not installed, too old, or lacks its GPU.
    """
    from mimiq.runtime.tensorrt.products import find_product

    if target not in TARGETS:
        raise BadInput(f"`target={target}` is unknown.", f"Choose one of {', '.join(TARGETS)}.")
    product = find_product(target)
    if product is None:
        return
    product.load()
    lack = product.why_not_build()
    if lack is not None:
        raise EnvironmentLacks(
            f"{product.title} times its kernels on a GPU. {lack.reason}",
            "Choose `target=rtx`, which builds anywhere, or run mimiq build on the host that "
            "will serve the model.",
        )


def _check_fp8(fp8: bool, precision: str | Precision, target: str) -> None:
    """Refuse an engine in FP8 before the work where none can come of it.

    Raises:
        BadInput: with another precision than INT8, or for ONNX Runtime.
        EnvironmentLacks: this host builds no engine.
    """
    if not fp8:
        return
    if isinstance(precision, Precision):
        widths = (precision.linear.weight_bits, precision.linear.activation_bits)
    else:
        widths = widths_of(precision)[:2]
    if widths != (8, 8):
        raise BadInput(
            "`fp8` takes the place of INT8, and another precision was given.",
            "Leave out `fp8`, or choose INT8.",
        )
    if target == GRAPH:
        raise BadInput("`fp8` is for engines; `target=ort` builds none.", "Use `target=rtx`.")
    from mimiq.export.tensorrt.engines import choose_product

    if choose_product(target) is None:
        raise missing_extra("TensorRT-RTX", "rtx")
