"""Distillation: the quantised network learns to answer, and to attend, like the original.

Loss (MimiQ, AAAI 2025, section on head-wise structural attention distillation):
``T² · KL(student/T ‖ teacher/T) + w · mean(1 − S)`` with the structure term S between the outputs
of each attention head, over the spatial tokens, for each image, head and channel. Embeddings are
compared by cosine and length instead (:func:`mimiq.distill.losses.embedding_loss`).
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq import ranks
from mimiq.calibrate.images import Images, pixels_of
from mimiq.config.distillation import DistillationRecipe
from mimiq.config.recipes import recipe_for
from mimiq.devices import fast_dtype
from mimiq.distill import checkpoints
from mimiq.distill.gradients import kept_by_first, sum_gradients
from mimiq.distill.losses import Target, distillation_loss, outputs_of
from mimiq.distill.rates import HARM, Rates
from mimiq.distill.views import random_views
from mimiq.errors import BadInput
from mimiq.models.answers import same_answer
from mimiq.quantize import kernels as fake_quant_kernels
from mimiq.quantize.fake_quant import Quantizer
from mimiq.quantize.insert import QuantizedModel
from mimiq.runtime.report.report import Tuning

# DeiT-T on a CPU: compiled quantisers save half a microsecond a pixel, and take 10 to 25 seconds.
_WORTH_COMPILING = 64_000_000  # pixels seen in training
_CACHE_BYTES = 2 * 2**30  # teacher outputs are kept in memory up to this size


def distill(
    quantized: QuantizedModel,
    images: Images,
    recipe: DistillationRecipe | str,
    *,
    held_out: Images | None = None,
    seed: int = 0,
    checkpoint: Path | None = None,
    progress: Callable[[int, float, float], None] = lambda *_: None,
    note: Callable[[str], object] = lambda _: None,
) -> Tuning:
    """Tune ``quantized.module`` in place, and leave it at its best state on the held-out images.

    Args:
        quantized: its module is on the device to work on, in eval mode, and stays in it.
        images: a calibration set, or pixels, uint8 (B, H, W, C): to learn from.
        recipe: how; a name stands for that recipe's distillation at this precision.
        held_out: more of them, which choose the state that is kept; without them the recipe's share
            of ``images`` does, and is not learnt from.
        seed: of views and order; step k draws from (seed, k) alone, so a resumed run goes on alike.
        checkpoint: state is kept here, so that an interrupted run goes on; removed at the end.
        progress: told (steps done, training loss, held-out loss) after each step.
        note: told where a checkpoint is damaged and all steps are taken again.

    Raises:
        BadInput: an unknown recipe, images of another type, too few to hold any out, or a loss that
            is no number before the first step.
    """
    started = time.monotonic()
    if isinstance(recipe, str):
        recipe = recipe_for(recipe, quantized.precision).distillation
    shown = pixels_of(images)
    if held_out is None:
        shown, judging = recipe.split(shown)
    else:
        judging = pixels_of(held_out)
    run = Distillation(quantized, shown, judging, recipe, seed)
    pixels = recipe.steps * recipe.batch_size * shown.shape[1] * shown.shape[2]
    with fake_quant_kernels.compiled(run.device) if pixels > _WORTH_COMPILING else nullcontext():
        _tune(run, checkpoint, started, progress, note)
    run.restore_best()
    agreement = run.agreement()
    if checkpoint is not None and ranks.current().first:
        checkpoint.unlink(missing_ok=True)
    return Tuning(
        steps=run.step,
        initial_loss=run.history[0][1],
        best_loss=run.best_loss,
        best_step=run.best_step,
        agreement=agreement,
        seconds=run.seconds_before + time.monotonic() - started,
        history=tuple(run.history),
    )


def _tune(
    run: Distillation,
    checkpoint: Path | None,
    started: float,
    progress: Callable[[int, float, float], None],
    note: Callable[[str], object],
) -> None:
    recipe = run.recipe
    kept = kept_by_first(checkpoint)
    state = None if kept is None else checkpoints.read(kept, run.device)
    if state is not None:
        run.resume(state)
    else:
        if kept is not None:
            note(f"distill: {checkpoint} is damaged, and all steps are taken again")
        run.evaluate()
    while run.step < recipe.steps:
        loss = run.train_step()
        last = run.step == recipe.steps
        if run.step % recipe.evaluate_every == 0 or last:
            run.evaluate()
            if checkpoint is not None and not last and ranks.current().first:
                run.save(checkpoint, time.monotonic() - started)
        progress(run.step, loss, run.history[-1][1])


class Distillation:
    """The state of one distillation: what a checkpoint must hold, and the moves on it.

    :func:`distill` drives it; arguments are the same.
    """

    def __init__(
        self,
        quantized: QuantizedModel,
        images: torch.Tensor,
        held_out: torch.Tensor,
        recipe: DistillationRecipe,
        seed: int,
    ) -> None:
        self.model = quantized.model
        self.student = quantized.module.eval()
        self.recipe = recipe
        self.seed = seed
        self.device = next(self.student.parameters()).device
        self.dtype = fast_dtype(self.device)
        self.teacher = copy.deepcopy(self.model.module).to(self.device)
        self.train_images = images
        self.held_out = [self._normalize(part) for part in held_out.split(recipe.batch_size)]
        self.held_out_targets = [self._teach(batch, fast=False) for batch in self.held_out]
        self.known = self._teach_all() if recipe.views.fixed and recipe.steps else None
        self.optimizer = self._optimizer()
        self.rates = Rates(self.optimizer, recipe.steps)
        self.step = 0
        self.history: list[tuple[int, float]] = []
        self.best_loss, self.best_step = math.inf, 0
        self.best_state: dict[str, torch.Tensor] = {}
        self.seconds_before = 0.0

    def train_step(self) -> float:
        """One optimiser step; returns the training loss."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + self.step)
        chosen = torch.randperm(len(self.train_images), generator=generator)
        chosen = chosen[: self.recipe.batch_size]
        shown = self._normalize(self.train_images[chosen])
        # Views mix the images of a batch: each rank makes all of them, and learns from its share.
        own = slice(ranks.current().rank, None, ranks.current().world)
        batch, chosen = random_views(self.recipe.views, shown, generator)[own], chosen[own]
        self.rates.set(self.step)
        self.optimizer.zero_grad(set_to_none=True)
        loss = shown.new_zeros(())
        if len(batch):
            target = self._known(chosen) if self.known is not None else self._teach(batch)
            with self._autocast():
                output = self._outputs(self.student, batch)
            loss = self._loss(output, target) * (len(batch) / len(shown))
            loss.backward()
        loss = loss.detach()
        sum_gradients(self.optimizer, loss)
        self.optimizer.step()
        self.step += 1
        return float(loss)

    @torch.no_grad()
    def evaluate(self) -> None:
        """Held-out loss in fp32; the state is kept if it is the best so far.

        Where the loss shows harm, the run goes on from the best state at lower rates.
        """
        group = ranks.current()
        batches = list(zip(self.held_out, self.held_out_targets, strict=True))
        losses = torch.zeros(len(batches), device=self.device)
        for index in range(len(batches))[group.rank :: group.world]:
            batch, target = batches[index]
            losses[index] = self._loss(self._outputs(self.student, batch), target) * len(batch)
        group.sum_([losses])  # each batch's from one rank: the same sum as of one
        loss = float(losses.sum()) / sum(len(batch) for batch in self.held_out)
        if not self.history and not math.isfinite(loss):
            raise BadInput(
                f"Distillation cannot begin: on images held out the loss is {loss} already.",
                "Compile with `steps=0`, which leaves the network as fitted, or at more bits.",
            )
        self.history.append((self.step, loss))
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best_state = {k: v.detach().clone() for k, v in self.student.state_dict().items()}
        elif not loss <= HARM * self.best_loss:  # not a number is harm, too
            self.student.load_state_dict(self.best_state)
            self.rates.lower()

    @torch.no_grad()
    def agreement(self) -> float:
        """How alike the answers to held-out images are, see :class:`Tuning`."""
        same = [
            same_answer(self.student(batch), target.answers, self.model.output)
            for batch, target in zip(self.held_out, self.held_out_targets, strict=True)
        ]
        return float(torch.cat(same).mean())

    def restore_best(self) -> None:
        self.student.load_state_dict(self.best_state)
        self.student.requires_grad_(False)

    def save(self, path: Path, seconds: float) -> None:
        state = {
            "step": self.step,
            "student": self.student.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "best_state": self.best_state,
            "best": [self.best_loss, self.best_step],
            "rates": self.rates.share,
            "history": self.history,
            "seconds": self.seconds_before + seconds,
        }
        checkpoints.write(path, state)

    def resume(self, state: Mapping[str, Any]) -> None:
        """Take up what :meth:`save` wrote."""
        self.step = state["step"]
        self.student.load_state_dict(state["student"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.best_state = state["best_state"]
        self.best_loss, self.best_step = state["best"]
        self.rates.share = state.get("rates", 1.0)
        self.history = [(step, loss) for step, loss in state["history"]]
        self.seconds_before = state["seconds"]

    def _loss(self, output: Target, target: Target) -> torch.Tensor:
        model = self.model
        return distillation_loss(output, target, self.recipe, model.output, model.tokens)

    def _optimizer(self) -> torch.optim.Optimizer:
        scales: list[nn.Parameter] = []
        weights: list[nn.Parameter] = []
        for module in self.student.modules():
            for parameter in module.parameters(recurse=False):
                (scales if isinstance(module, Quantizer) else weights).append(parameter)
        groups = [
            {"params": [p.requires_grad_(True) for p in parameters], "lr": rate}
            for parameters, rate in (
                (scales, self.recipe.lr_scales),
                (weights, self.recipe.lr_weights),
            )
            if rate > 0 and parameters
        ]
        if self.recipe.optimizer == "sgd":
            return torch.optim.SGD(groups, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(groups, weight_decay=0.0, fused=True)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None
        )

    def _normalize(self, pixels: torch.Tensor) -> torch.Tensor:
        normalized = self.model.preprocessing.normalize(pixels.numpy())
        return torch.from_numpy(normalized).to(self.device)

    @torch.no_grad()
    def _teach(self, batch: torch.Tensor, fast: bool = True) -> Target:
        if not fast:
            return self._outputs(self.teacher, batch)
        with self._autocast():
            return self._outputs(self.teacher, batch)

    def _outputs(self, module: nn.Module, batch: torch.Tensor) -> Target:
        return outputs_of(self.model, module, batch)

    def _teach_all(self) -> Target | None:
        """The teacher's outputs for every training image, if they fit in memory."""
        first = self._teach(self._normalize(self.train_images[:1]))
        kept_bytes = sum(2 * output.numel() for output in first.heads) * len(self.train_images)
        if kept_bytes > _CACHE_BYTES:
            return None
        parts = [self._teach(batch) for batch in self._batches()]
        return Target(
            torch.cat([part.answers.float() for part in parts]),
            [torch.cat(heads).half() for heads in zip(*(p.heads for p in parts), strict=True)],
        )

    def _known(self, chosen: torch.Tensor) -> Target:
        assert self.known is not None
        chosen = chosen.to(self.device)
        return Target(
            self.known.answers[chosen],
            [head[chosen] for head in self.known.heads],
        )

    def _batches(self) -> Iterator[torch.Tensor]:
        for part in self.train_images.split(self.recipe.batch_size):
            yield self._normalize(part)
