"""What a step of distillation costs, against its irreducible part, measured in the same run.

The yardstick: the teacher's forward, and a forward and backward of the student without any
quantiser, trained on the same loss, of the same batch. Wanted: a step of ours at most 1.6 times
that, views, fake quantisation, its gradients and the optimiser included.

    python benchmarks/distillation_cost.py --weights deit_tiny_patch16_224.safetensors
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from turns import median_ratio, take_turns, verdict

from mimiq.config.distillation import DistillationRecipe
from mimiq.config.precision import Precision, from_bits
from mimiq.config.recipes import recipe_for
from mimiq.devices import describe_device, fast_dtype, pick_device
from mimiq.distill.loop import Distillation
from mimiq.distill.losses import distillation_loss, outputs_of
from mimiq.models import LoadedModel, load_model
from mimiq.quantize import kernels as kernels
from mimiq.quantize.insert import RangeRecipe, quantize

MOST = 1.6
# Scales do not change what a step costs; grids of two steps do.
QUICK = RangeRecipe(migrate=False, refit=False, rounding="nearest")


def main() -> None:
    arguments = _arguments()
    device = pick_device(arguments.device)
    model = load_model(
        arguments.model, weights=arguments.weights, untrained=arguments.weights is None
    )
    rows = {}
    with kernels.compiled(device) as compiled:
        print("quantisers compiled" if compiled else "quantisers in eager mode", flush=True)
        for weight_bits, activation_bits in ((8, 8), (4, 8), (4, 4)):
            precision = from_bits(weight_bits, activation_bits)
            rows[precision.label] = step_cost(
                model, precision, device, arguments.batch, arguments.rounds
            )
            print(_line(precision.label, rows[precision.label]), flush=True)
    result = {
        "hardware": describe_device(device),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "autocast": str(fast_dtype(device)).removeprefix("torch."),
        "model": model.architecture + (" (untrained weights)" if model.untrained else ""),
        "compiled": compiled,
        "batch": arguments.batch,
        "rounds": arguments.rounds,
        "rows": rows,
    }
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def step_cost(
    model: LoadedModel, precision: Precision, device: torch.device, batch: int, rounds: int
) -> dict[str, float]:
    """Median seconds of a step of ours and of the yardstick, and the median of their ratio."""
    size = model.preprocessing.image_size
    drawn = np.random.default_rng(0).integers(0, 256, (2 * batch, size, size, 3), np.uint8)
    pixels = torch.from_numpy(drawn)
    images = torch.from_numpy(model.preprocessing.normalize(drawn)).to(device)
    recipe = recipe_for("cpu", precision).distillation
    recipe = replace(recipe, steps=1_000_000, batch_size=batch, held_out=1 / len(pixels))
    quantized = quantize(model, precision, images[:2], QUICK)
    ours = Distillation(quantized, *recipe.split(pixels), recipe, seed=0)
    plain = _plain_step(model, images[:batch], recipe)
    seconds = take_turns({"plain": plain, "ours": ours.train_step}, rounds, device)
    return {
        **{f"{name}_seconds": statistics.median(times) for name, times in seconds.items()},
        "ratio": median_ratio(seconds, "ours", "plain"),
    }


def _plain_step(
    model: LoadedModel, images: torch.Tensor, recipe: DistillationRecipe
) -> Callable[[], object]:
    teacher = copy.deepcopy(model.module).to(images.device)
    student = copy.deepcopy(teacher).requires_grad_(True)
    dtype = fast_dtype(images.device)

    def step() -> Any:
        cast = torch.autocast(images.device.type, dtype or torch.bfloat16, enabled=bool(dtype))
        with cast, torch.no_grad():
            target = outputs_of(model, teacher, images)
        with cast:
            output = outputs_of(model, student, images)
        loss = distillation_loss(output, target, recipe)
        student.zero_grad(set_to_none=True)
        loss.backward()
        return loss

    return step


def _line(label: str, row: dict[str, float]) -> str:
    return (
        f"{label:<12} plain {row['plain_seconds']:7.3f} s   ours {row['ours_seconds']:7.3f} s   "
        f"{row['ratio']:.2f}×  {verdict(row['ratio'] <= MOST)} (≤ {MOST})"
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path, help="without it, random weights: same cost")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="write the results here as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    main()
