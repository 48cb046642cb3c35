"""The stages that ``distill`` and ``export`` share: inputs checked, network tuned."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from mimiq.cli import choices, values
from mimiq.inputs import calibration_of
from mimiq.outputs import require_new

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.progress import Progress
    from mimiq.spec import Job
    from mimiq.stages.tune import Tuned

ORIGIN = "origin.json"


def prepared(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    output: choices.OutChoice,
    suffix: str,
    progress: Progress,
    names: Collection[str] = (),
) -> Job:
    """The job, its inputs and output checked.

    Args:
        suffix: of the name of the output: a file's, or a folder's that holds ``names``.
        names: of all files of that folder.
    """
    from mimiq.spec import default_out

    kind = None if names else suffix
    if output.out is not None:
        require_new(output.out, output.force, kind, names)
    calibration_of(tuning.calibration)
    model = values.load(choice, progress)
    wanted = values.precision_of(precision, model, images.recipe)
    out = output.out or default_out(choice.model, wanted.label, suffix)
    require_new(out, output.force, kind, names)
    return values.job_of(model, wanted, images, tuning, out)


def tuned(job: Job, cache_dir: Path | None, progress: Progress) -> tuple[Tuned, CalibrationSet]:
    """The job's tuned network, and the images it was tuned on; cached."""
    from mimiq.cache import Cache, default_cache_dir
    from mimiq.stages.images import calibration_set, tuning_images
    from mimiq.stages.tune import tuned_network

    cache = Cache(cache_dir or default_cache_dir(), progress.note)
    calibration = calibration_set(job, cache, progress)
    images = tuning_images(job, calibration)
    return tuned_network(job, calibration, images, cache, progress), calibration
