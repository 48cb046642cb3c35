"""All that ``mimiq-compile`` does, as one call."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mimiq.libraries import require_compile_extra
from mimiq.progress import Told, progress_for

if TYPE_CHECKING:
    from torch import nn

    from mimiq.config.precision import Precision
    from mimiq.models import LoadedModel
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.evaluation.datasets import LabelledImages
    from mimiq.runtime.preprocessing import Preprocessing


def compile(
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
    cache: str | Path | None = None,
    progress: Told = None,
    **loading: Any,
) -> Bundle:
    """Compile a trained vision transformer to a checked, quantised bundle, without one real image.

    ``mimiq-compile`` calls the same functions with what its flags say: the same stages, in the
    same order and with the same cache, to the same bundle.

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
        labels: class names in order, or a text file with one a line.
        block_size: inputs that share a scale, for weights alone; None for the largest that fits.
        uniform: the classifier at the same bits as other layers; by default it has 8 at least.
        max_drop: points of top-1 that may be lost: layers are raised to more bits for it. Of
            embeddings, percent that the mean cosine may lack of 1.
        size_budget: the most that the graph may take: ``4MB``, or ``0.6x`` of full precision.
        calibration: ``synthetic``, ``psaq``, ``noise``, a folder of images, or a finished set.
        recipe: ``fast``, ``cpu``, ``gpu``, ``paper`` or ``tiny``; None for the one that suits
            network and device.
        images, steps: how many are synthesised, and how long the network is distilled, where that
            is not as in the recipe.
        seed: fixes the whole run on one machine.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
        evaluation: what to measure accuracy on: a folder as of ``mimiq eval``, or images in memory
            (:class:`mimiq.runtime.InMemoryImages`: uint8 (N, H, W, C) and int64 labels (N,)).
        eval_limit: of a folder at most so many, evenly spread.
        batches: sizes whose latency is measured; none to skip it.
        target: the engine: ``auto`` for what this host can build, ``rtx``, ``trt``, or ``ort`` for
            none.
        allow_fallback: accept layers of the engine that lose low precision.
        fp8: an engine in FP8 (E4M3) in the place of INT8.
        overwrite: replace a bundle that is at ``out``.
        cache: folder of finished stages; None for ``$MIMIQ_CACHE`` or the user's.
        progress: told of every stage: ``tqdm`` or another class like it, one bar of it, a
            :class:`mimiq.Progress`, or a function of the stage's name, the steps done, those in all
            (or None) and a few words. Notes go to the log ``mimiq``, at level INFO.
        **loading: more for :func:`mimiq.load_model` (``num_classes``, ``image_size``,
            ``model_kwargs``, …) or, of a network in memory, :func:`mimiq.load_module` (``name``,
            ``output``).

    Returns:
        The bundle, with its report and, where one was built, its engine.

    Raises:
        MimiqError: whatever was wrong, as one sentence with a next step; finished stages stay in
            the cache, and the same call goes on from there.
    """
    require_compile_extra()
    from mimiq.cache import Cache, default_cache_dir
    from mimiq.compiler import compile_model
    from mimiq.jobs import job_for

    told = progress_for(progress)
    job = job_for(
        model,
        precision,
        out=out,
        weights=weights,
        preprocessing=preprocessing,
        labels=labels,
        block_size=block_size,
        uniform=uniform,
        max_drop=max_drop,
        size_budget=size_budget,
        calibration=calibration,
        recipe=recipe,
        images=images,
        steps=steps,
        seed=seed,
        device=device,
        evaluation=evaluation,
        eval_limit=eval_limit,
        batches=batches,
        target=target,
        allow_fallback=allow_fallback,
        fp8=fp8,
        overwrite=overwrite,
        progress=told,
        **loading,
    )
    folder = default_cache_dir() if cache is None else Path(cache)
    return compile_model(job, Cache(folder, told.note), told).bundle
