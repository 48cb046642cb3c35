"""The stages that ``distill`` and ``export`` share: inputs checked, network tuned."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.cli import choices, preflight, values

if TYPE_CHECKING:
    from mimiq.calibrate import CalibrationSet
    from mimiq.models import LoadedModel
    from mimiq.progress import Progress
    from mimiq.quantize.insert import QuantizedModel
    from mimiq.spec import Job

TUNED = "quantizers.json"  # by which a folder of mimiq distill is known
ORIGIN = "origin.json"


def prepared(
    choice: choices.ModelChoice,
    precision: choices.PrecisionChoice,
    images: choices.ImagesChoice,
    tuning: choices.TuningChoice,
    output: choices.OutChoice,
    suffix: str,
    kind: str,
    progress: Progress,
) -> Job:
    """The job, its inputs and output checked; ``kind`` as of :func:`preflight.require_new`."""
    if output.out is not None:
        preflight.require_new(output.out, output.force, kind)
    values.calibration_of(tuning.calibration)
    model = values.load(choice, progress)
    wanted = values.precision_of(precision, model, images.recipe)
    out = output.out or values.default_out(choice.model, wanted.label, suffix)
    preflight.require_new(out, output.force, kind)
    return values.job_of(model, wanted, images, tuning, out)


def tuned(
    job: Job, cache_dir: Path | None, progress: Progress
) -> tuple[QuantizedModel, CalibrationSet, dict[str, Any]]:
    from mimiq.cache import Cache, default_cache_dir
    from mimiq.compile import tuned_network
    from mimiq.stages.images import calibration_set

    cache = Cache(cache_dir or default_cache_dir(), progress.note)
    calibration = calibration_set(job, cache, progress)
    quantized, report = tuned_network(job, calibration, cache, progress)
    return quantized, calibration, report


def graph_metadata(
    model: LoadedModel, quantized: QuantizedModel, calibration: CalibrationSet
) -> dict[str, str]:
    """What the ONNX file says of itself, as in a bundle."""
    return {
        "mimiq.model": model.name,
        "mimiq.config.precision": json.dumps(quantized.precision.to_json()),
        "mimiq.preprocessing": json.dumps(model.preprocessing.to_json()),
        "mimiq.weights_sha256": model.weights_hash,
        "mimiq.calibration_sha256": calibration.content_hash,
        "mimiq.untrained": json.dumps(model.untrained),
        "mimiq.output": model.output,
    }
