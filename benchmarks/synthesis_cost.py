"""What a step of synthesis costs, against two yardsticks measured in the same run.

1. A step of ours (views, forward, similarity + label + total variation, image gradient, AdamW) over
   a plain forward and image-gradient backward of timm's own network with fused attention off, same
   batch, same precision. Wanted: at most 1.2. Beside it the step of recipe ``fast``, which looks at
   a part of the patches.
2. The similarity loss alone, forward and backward, over its definition, which materialises the
   H×H×N products of every query: time and peak memory. Wanted: at least 3 times less of both.

Peak memory is, on CUDA, what PyTorch's allocator
reports; on a CPU, the growth of the peak resident set of a process of its own for each contender.

    python benchmarks/synthesis_cost.py --weights deit_tiny_patch16_224.safetensors
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from turns import median_ratio, take_turns, verdict

from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.devices import describe_device, pick_device
from mimiq.models import SHORT_NAMES, LoadedModel, load_model
from mimiq.synthesis.mimiq import mimiq_objective
from mimiq.synthesis.objective import draw_batch, make_teacher
from mimiq.synthesis.similarity import inter_head_loss, inter_head_loss_definition

MOST_STEP_RATIO = 1.2
LEAST_LOSS_RATIO = 3.0
HEADS, PATCHES, PREFIX = 12, 196, 1
LOSSES = {"ours": inter_head_loss, "definition": inter_head_loss_definition}
DTYPES = {"fp32": None, "bf16": torch.bfloat16}


def main() -> None:
    arguments = _arguments()
    if arguments.peak_memory:
        print(peak_resident_growth(arguments.peak_memory, arguments.loss_batch))
        return
    device = pick_device(arguments.device)
    model = load_model(
        arguments.model, weights=arguments.weights, untrained=arguments.weights is None
    )
    dtype = DTYPES[arguments.precision]
    step = step_cost(model, device, dtype, arguments.batch, arguments.rounds)
    loss = loss_cost(device, arguments.loss_batch, arguments.rounds)
    result = {
        "hardware": describe_device(device),
        "torch": torch.__version__,
        "model": model.architecture + (" (untrained weights)" if model.untrained else ""),
        "precision": arguments.precision,
        "batch": arguments.batch,
        "step": step,
        "loss": {"heads": HEADS, "keys": PATCHES, "batch": arguments.loss_batch, **loss},
    }
    print(_report(result))
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


def step_cost(
    model: LoadedModel, device: torch.device, dtype: torch.dtype | None, batch: int, rounds: int
) -> dict[str, float]:
    """Seconds of a plain step and of ours, whole, without similarity and sparse; their ratios."""
    sparse = replace(SYNTHESIS_RECIPES["fast"], iterations=1_000_000)
    whole = replace(sparse, seen=1.0)
    contenders = {"plain": _plain_step(model, device, dtype, batch)}
    for name, recipe in (
        ("ours", whole),
        ("without_similarity", replace(whole, similarity_weight=0.0)),
        ("sparse", sparse),
    ):
        objective = mimiq_objective(make_teacher(model, device, dtype), recipe)
        steps = objective(draw_batch(model, batch, 0, 0, device))
        contenders[name] = steps.__next__
    seconds = take_turns(contenders, rounds, device)
    return {
        **{f"{name}_seconds": statistics.median(times) for name, times in seconds.items()},
        "ratio": median_ratio(seconds, "ours", "plain"),
        "ratio_without_similarity": median_ratio(seconds, "without_similarity", "plain"),
        "ratio_sparse": median_ratio(seconds, "sparse", "plain"),
    }


def _plain_step(
    model: LoadedModel, device: torch.device, dtype: torch.dtype | None, batch: int
) -> Callable[[], object]:
    """Forward and image-gradient backward of the network as timm has it, fused attention off."""
    import timm

    network: Any = timm.create_model(
        model.architecture,
        num_classes=model.num_classes,
        img_size=model.preprocessing.image_size,
    )
    for block in network.blocks:
        block.attn.fused_attn = False
    network = network.to(device).eval().requires_grad_(False)
    drawn = draw_batch(model, batch, 0, 0, device)

    def step() -> torch.Tensor:
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            logits = network(drawn.images)
        loss = torch.nn.functional.cross_entropy(logits.float(), drawn.labels)
        (gradient,) = torch.autograd.grad(loss, drawn.images)
        return gradient

    return step


def loss_cost(device: torch.device, batch: int, rounds: int) -> dict[str, float]:
    """Seconds and peak bytes of the loss, forward and backward, ours and by definition."""
    scores = _scores(batch, device)
    contenders = {
        name: lambda loss=loss: _loss_and_gradient(loss, scores) for name, loss in LOSSES.items()
    }
    seconds = take_turns(contenders, rounds, device)
    if device.type == "cuda":
        peak = {name: _peak_allocated(run, device) for name, run in contenders.items()}
    else:
        peak = {name: _peak_in_own_process(name, batch) for name in contenders}
    return {
        **{f"{name}_seconds": statistics.median(times) for name, times in seconds.items()},
        **{f"{name}_peak_bytes": value for name, value in peak.items()},
        "time_ratio": median_ratio(seconds, "definition", "ours"),
        "memory_ratio": peak["definition"] / peak["ours"],
    }


def _scores(batch: int, device: torch.device) -> torch.Tensor:
    tokens = PATCHES + PREFIX
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn((batch, HEADS, tokens, tokens), generator=generator)
    return scores.to(device).requires_grad_()


def _loss_and_gradient(loss: Callable[..., torch.Tensor], scores: torch.Tensor) -> torch.Tensor:
    (gradient,) = torch.autograd.grad(loss(scores, prefix_tokens=PREFIX), scores)
    return gradient


def _peak_allocated(run: Callable[[], object], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def _peak_in_own_process(name: str, batch: int) -> int:
    command = [sys.executable, __file__, "--peak-memory", name, "--loss-batch", str(batch)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def peak_resident_growth(name: str, batch: int) -> int:
    """Bytes by which one loss and gradient raise this process's peak resident set (Linux)."""
    scores = _scores(batch, torch.device("cpu"))
    loss = LOSSES[name]
    _loss_and_gradient(loss, _scores(1, torch.device("cpu")))  # libraries take their buffers
    # Importing may have peaked above what is resident now: fill up to that peak first.
    gap = _peak_resident() - _resident()
    ballast = torch.ones(max(gap, 0) + (1 << 20), dtype=torch.uint8)
    before = _peak_resident()
    _loss_and_gradient(loss, scores)
    assert ballast[-1] == 1
    return _peak_resident() - before


def _peak_resident() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def _report(result: Mapping[str, Any]) -> str:
    step, loss = result["step"], result["loss"]
    mega = 1 / 2**20
    lines = [
        f"{result['model']}, {result['precision']}, batch {result['batch']}, "
        f"{result['hardware']}, torch {result['torch']}",
        "",
        f"plain forward + image gradient   {step['plain_seconds']:8.3f} s",
        f"step of ours                     {step['ours_seconds']:8.3f} s   "
        f"{step['ratio']:.2f}×  {verdict(step['ratio'] <= MOST_STEP_RATIO)} (≤ {MOST_STEP_RATIO})",
        f"  without similarity             {step['without_similarity_seconds']:8.3f} s   "
        f"{step['ratio_without_similarity']:.2f}×",
        f"  as recipe fast looks           {step['sparse_seconds']:8.3f} s   "
        f"{step['ratio_sparse']:.2f}×",
        "",
        f"similarity loss, {HEADS} heads, {PATCHES} keys, batch {loss['batch']}",
        f"definition                       {loss['definition_seconds']:8.3f} s   "
        f"{loss['definition_peak_bytes'] * mega:8.1f} MiB",
        f"Gram matrices                    {loss['ours_seconds']:8.3f} s   "
        f"{loss['ours_peak_bytes'] * mega:8.1f} MiB",
    ]
    for what in ("time", "memory"):
        ratio = loss[f"{what}_ratio"]
        judged = verdict(ratio >= LEAST_LOSS_RATIO)
        lines.append(f"{what + ' ratio':<33}{ratio:7.1f}×  {judged} (≥ {LEAST_LOSS_RATIO:.0f})")
    return "\n".join(lines)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t", help=f"e.g. {', '.join(SHORT_NAMES)}")
    parser.add_argument("--weights", type=Path, help="without it, random weights: same cost")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=DTYPES, default="fp32")
    parser.add_argument("--batch", type=int, default=16, help="images of a step")
    parser.add_argument("--loss-batch", type=int, default=8, help="images of the loss alone")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--output", type=Path, help="write the results here as JSON")
    parser.add_argument("--peak-memory", choices=LOSSES, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
