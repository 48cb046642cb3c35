"""About how long a compilation takes on this host, from a few seconds of measurement."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from mimiq.cache import Cache
from mimiq.config.precision import Precision
from mimiq.devices import fast_dtype, pick_device
from mimiq.models import LoadedModel
from mimiq.spec import Job
from mimiq.stages.images import image_stage
from mimiq.synthesis.sparse import share_seen

# What a stage takes, in forwards of as many images (of the network as it is, in fp32), or in
# forwards and image gradients (as synthesis computes them). Measured on DeiT-T by
# benchmarks/compile_cost.py (docs/accuracy.md).
_SYNTHESIS = 1.2
_FIT = 9.0
_FIT_TWO_STEPS = 31.0  # below 7 bits, where every grid with two steps is searched
_DISTILLATION = 5.5
_LATENCY_SECONDS = 7.0  # for each batch size, with warm-up: :mod:`mimiq.stages.measuring.latency`

_MEASURED_SECONDS = 1.0
_ROUNDS = 3


@dataclass(frozen=True)
class Step:
    """One part of a compilation.

    Attributes:
        name: as its progress calls it.
        what: in a few words.
        seconds: about how long; 0 where the cache has it, None where nothing tells.
    """

    name: str
    what: str
    seconds: float | None


@dataclass(frozen=True)
class Estimate:
    """The parts of a compilation, in order.

    Attributes:
        steps: what will be done.
        device: where.
    """

    steps: tuple[Step, ...]
    device: str

    @property
    def seconds(self) -> float:
        """Of all parts together whose time can be told."""
        return sum(step.seconds or 0.0 for step in self.steps)

    def to_json(self) -> dict[str, Any]:
        steps = [asdict(step) for step in self.steps]
        return {"device": self.device, "seconds": self.seconds, "steps": steps}


@dataclass(frozen=True)
class Speed:
    """Seconds an image takes here.

    Attributes:
        forward: of the network in fp32.
        gradient: forward and image gradient, in the format that synthesis computes in.
    """

    forward: float
    gradient: float


def estimate(job: Job, cache: Cache) -> Estimate:
    """What ``job`` has left to do, and about how long each part takes.

    Raises:
        BadInput: the device, or the folder of images, is not there.
    """
    speed = measure_speed(job.model, pick_device(job.device))
    return Estimate(tuple(_steps(job, cache, speed)), str(pick_device(job.device)))


def _steps(job: Job, cache: Cache, speed: Speed) -> list[Step]:
    recipe, synthesis = job.recipe, job.recipe.synthesis
    made = image_stage(job)
    synthetic = job.calibration in ("synthetic", "psaq")
    count = synthesis.images if synthetic else recipe.given
    steps = []
    if made is None or cache.has(made):
        steps.append(Step("images", "there already", 0.0))
    elif synthetic:
        what = f"{synthesis.images} synthesised in {synthesis.iterations} steps each"
        share = share_seen(job.model, synthesis) if job.calibration == "synthetic" else 1.0
        looks = share * synthesis.images * synthesis.iterations
        seconds = _SYNTHESIS * looks * speed.gradient
        steps.append(Step("images", what, seconds))
    else:
        steps.append(Step("images", f"{count} at most of {job.calibration}", None))
    fitted = count + (recipe.procedural if job.calibration == "synthetic" else 0)
    if job.budget is not None:
        steps.append(Step("budget", "units raised until it is kept", None))
    steps.append(
        Step(
            "quantize",
            f"fitted to {fitted} images layer by layer",
            _fit(job.precision) * fitted * speed.forward,
        )
    )
    distillation = recipe.distillation
    if distillation.steps:
        seen = distillation.steps * distillation.batch_size
        what = f"{distillation.steps} steps of {distillation.batch_size} images"
        steps.append(Step("distill", what, _DISTILLATION * seen * speed.forward))
    if job.evaluation is not None:
        judged = len(job.evaluation)
        steps.append(Step("accuracy", f"on {judged} images", 2 * judged * speed.forward))
    if job.batches:
        what = f"of {len(job.batches)} batch sizes, against full precision"
        steps.append(Step("latency", what, _LATENCY_SECONDS * len(job.batches)))
    if job.engine is not None:
        from mimiq.export.tensorrt.engines import choose_product

        product = choose_product(job.engine.target)
        if product is not None:
            steps.append(Step("engine", f"for {product.title}, and its proof", None))
    return steps


def _fit(precision: Precision) -> float:
    bits = precision.linear.activation_bits
    return _FIT if bits is None or bits >= 7 else _FIT_TWO_STEPS


def measure_speed(model: LoadedModel, device: torch.device) -> Speed:
    """The best of a few rounds of as many images as a second allows, sixteen at most."""
    network = model.module.to(device)
    dtype = fast_dtype(device)

    def forward(images: torch.Tensor) -> None:
        with torch.no_grad():
            network(images)

    def gradient(images: torch.Tensor) -> None:
        leaf = images.clone().requires_grad_()
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            answers = network(leaf)
        torch.autograd.grad(answers.float().square().sum(), leaf)

    try:
        return Speed(*(_seconds(run, model, device) for run in (forward, gradient)))
    finally:
        model.module.cpu()


def _seconds(
    run: Callable[[torch.Tensor], None], model: LoadedModel, device: torch.device
) -> float:
    """Of one image."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((16, *model.preprocessing.input_shape), generator=generator).to(device)
    one = _timed(run, images[:1], device)
    one = min(one, _timed(run, images[:1], device))  # the first may compile and allocate
    count = int(min(max(_MEASURED_SECONDS / one, 1), len(images)))
    return min(_timed(run, images[:count], device) for _ in range(_ROUNDS)) / count


def _timed(
    run: Callable[[torch.Tensor], None], images: torch.Tensor, device: torch.device
) -> float:
    started = time.perf_counter()
    run(images)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started
