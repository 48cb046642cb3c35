"""From noise to a calibration set: the part of synthesis that every objective shares.

An objective is a function that improves a batch of images in place, yielding its losses after each
step. The driver draws each batch from a seed of its own, runs the objective on it, and writes it;
what is on disk already is not made again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch

from mimiq import ranks
from mimiq.calibrate.dataset import CalibrationSet
from mimiq.calibrate.manifest import make_manifest
from mimiq.calibrate.writing import CalibrationSetWriter
from mimiq.config.shard import Shard
from mimiq.devices import describe_device, fast_dtype, pick_device
from mimiq.errors import BadInput, CheckFailed, EnvironmentLacks
from mimiq.models import LoadedModel
from mimiq.progress import Progress, Stage
from mimiq.synthesis.gathering import collect, missing_anywhere
from mimiq.synthesis.objective import Batch, Objective, Teacher, draw_batch, make_teacher

_SECONDS_BETWEEN_REPORTS = 0.25


class Plan(Protocol):
    """What the driver must know of a recipe."""

    @property
    def images(self) -> int: ...
    @property
    def iterations(self) -> int: ...
    @property
    def batch_size(self) -> int: ...
    def to_json(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Unfinished:
    """A set of which a shard has been made, and others have not.

    Attributes:
        path: the set's folder.
        made: how many batches of the shard this run made.
        missing: by shard, the numbers of the batches that are missing.
    """

    path: Path
    made: int
    missing: Mapping[Shard, list[int]]


def make_set(
    model: LoadedModel,
    kind: str,
    plan: Plan,
    objective_for: Callable[[Teacher], Objective],
    *,
    seed: int,
    out: Path,
    device: str,
    progress: Progress,
) -> CalibrationSet:
    """Make a calibration set batch by batch, or what is missing of one.

    Of several ranks each makes its share of what is missing, and each has the whole set at the end,
    whether or not they share a folder.

    Args:
        model: the trained network.
        kind: as in the manifest.
        plan: how many images, in batches of how many, in how many steps.
        objective_for: the objective on a network.
        seed: of all randomness; every batch has a stream of its own.
        out: the set's folder.
        device: as for :func:`mimiq.devices.pick_device`.
        progress: told how far it is.

    Raises:
        BadInput: the folder holds something else, the device is unknown, the plan is empty, or
            there are more ranks than batches.
        CheckFailed: an image became NaN.
        EnvironmentLacks: no such device, too little GPU memory, a full disk, or a rank that ended.
    """
    group = ranks.current()
    work = _Work(model, kind, plan, objective_for, seed, pick_device(device))
    _check_ranks(group.world, len(work.sizes), plan)
    writer = ranks.first_before_others(lambda: CalibrationSetWriter(out, work.manifest()))
    count = len(work.sizes)
    missing = missing_anywhere(group, writer, count)
    if 0 < len(missing) < count:
        progress.note(f"images: going on, {count - len(missing)} of {count} batches done")
    work.make(missing[group.rank :: group.world], writer, progress)
    collect(group, writer, count)
    return ranks.first_before_others(lambda: CalibrationSetWriter(out, work.manifest()).finish())


def make_shard(
    model: LoadedModel,
    kind: str,
    plan: Plan,
    objective_for: Callable[[Teacher], Objective],
    shard: Shard,
    *,
    seed: int,
    out: Path,
    device: str,
    progress: Progress,
) -> CalibrationSet | Unfinished:
    """Make one shard of a set in a folder that the jobs of all shards write to.

    Arguments and errors as of :func:`make_set`.

    Returns:
        The set, once no batch of any shard is missing.
    """
    work = _Work(model, kind, plan, objective_for, seed, pick_device(device))
    writer = CalibrationSetWriter(out, work.manifest())
    indices = range(len(work.sizes))
    own = [index for index in indices if shard.holds(index) and not writer.has(index)]
    work.make(own, writer, progress)
    missing: dict[Shard, list[int]] = {}
    for index in indices:
        if not writer.has(index):
            missing.setdefault(Shard.of(index, shard.count), []).append(index)
    return Unfinished(out, len(own), missing) if missing else writer.finish()


@dataclass(frozen=True)
class _Work:
    """How the batches of a set are made."""

    model: LoadedModel
    kind: str
    plan: Plan
    objective_for: Callable[[Teacher], Objective]
    seed: int
    device: torch.device

    @property
    def sizes(self) -> list[int]:
        return _batch_sizes(self.plan)

    def manifest(self) -> dict[str, Any]:
        dtype = fast_dtype(self.device)
        return _manifest(self.model, self.kind, self.plan, self.seed, self.device, dtype)

    def make(
        self, indices: Sequence[int], writer: CalibrationSetWriter, progress: Progress
    ) -> None:
        """Make the batches of these numbers and write them, one by one."""
        if not indices:
            return
        plan, model, sizes = self.plan, self.model, self.sizes
        objective = self.objective_for(make_teacher(model, self.device, fast_dtype(self.device)))
        with progress.stage("synthesize", len(indices) * plan.iterations) as stage:
            for done, index in enumerate(indices):
                batch = draw_batch(model, sizes[index], self.seed, index, self.device)
                try:
                    _optimise(objective, batch, stage, done * plan.iterations)
                except torch.cuda.OutOfMemoryError as error:
                    raise EnvironmentLacks(
                        f"The GPU's memory does not hold a batch of {plan.batch_size} images.",
                        "Use a recipe with a smaller batch, or `device=cpu`.",
                    ) from error
                _check_finite(batch, index)
                writer.write(
                    index,
                    model.preprocessing.denormalize(batch.images.detach().float().cpu().numpy()),
                    batch.labels.cpu().numpy(),
                )


def _check_ranks(world: int, batches: int, plan: Plan) -> None:
    if world > batches:
        raise BadInput(
            f"There are {world} processes, and {plan.images} images in batches of "
            f"{plan.batch_size} are {batches} batches: {world - batches} would have nothing to do.",
            f"Start {batches} processes at most, or make more `images`.",
        )


def _optimise(objective: Objective, batch: Batch, stage: Stage, steps_before: int) -> None:
    reported = time.monotonic()
    with closing(objective(batch)) as steps:
        for step, losses in enumerate(steps, start=1):
            now = time.monotonic()
            # Reading a loss waits for the device: seldom.
            if now - reported > _SECONDS_BETWEEN_REPORTS:
                reported = now
                stage.update(steps_before + step, _standing(losses))
    stage.update(steps_before + step, _standing(losses))


def _standing(losses: Mapping[str, torch.Tensor]) -> str:
    return ", ".join(f"{name} {float(loss):.2f}" for name, loss in losses.items())


def _check_finite(batch: Batch, index: int) -> None:
    if not bool(torch.isfinite(batch.images).all()):
        raise CheckFailed(
            f"Synthesis diverged: batch {index} holds NaN.",
            "Check the network's weights and normalisation, or choose a smaller learning rate.",
        )


def _batch_sizes(plan: Plan) -> list[int]:
    if plan.images < 1 or plan.batch_size < 1 or plan.iterations < 1:
        raise BadInput(
            f"A recipe of {plan.images} images in batches of {plan.batch_size} "
            f"and {plan.iterations} iterations makes nothing.",
            "Each must be 1 or more.",
        )
    full, rest = divmod(plan.images, plan.batch_size)
    return [plan.batch_size] * full + ([rest] if rest else [])


def _manifest(
    model: LoadedModel,
    kind: str,
    plan: Plan,
    seed: int,
    device: torch.device,
    dtype: torch.dtype | None,
) -> dict[str, Any]:
    _batch_sizes(plan)
    manifest = make_manifest(
        kind,
        plan.images,
        model.preprocessing.input_shape,
        seed,
        {**plan.to_json(), "preprocessing": model.preprocessing.to_json()},
        model.describe(),
        f"{describe_device(device)}, {str(dtype or torch.float32).removeprefix('torch.')}",
    )
    manifest["software"]["torch"] = torch.__version__
    return manifest
