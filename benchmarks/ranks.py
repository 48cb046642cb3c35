"""How much faster several ranks of one host are than one, stage by stage, in turns.

The same work at every number of ranks: the batches of a set, the fit of all Linears, and steps of
distillation. Loading is not counted. Ranks take turns with one another, round by round.

    python benchmarks/ranks.py --worlds 1,2,4 --rounds 3 --network deit_t=deit_tiny.safetensors
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import record
import torch

from mimiq import ranks
from mimiq.config.distillation import DistillationRecipe, Views
from mimiq.config.precision import int4
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.distill.loop import distill
from mimiq.models import LoadedModel, load_model
from mimiq.quantize.insert import RangeRecipe, quantize
from mimiq.synthesis.mimiq import synthesize

STAGES = ("synthesis", "ranges", "fit", "distillation")
_VIEWS = Views(crop=0.3, flip=0.5)


def main() -> None:
    arguments = _arguments()
    name, _, weights = arguments.network.partition("=")
    if "RANK" in os.environ:
        _work(load_model(name, weights=weights or None), arguments)
        return
    worlds = [int(text) for text in arguments.worlds.split(",")]
    found: dict[int, list[dict[str, float]]] = {world: [] for world in worlds}
    for _ in range(arguments.rounds):
        for world in worlds:
            found[world].append(_run(world))
            print(world, found[world][-1], flush=True)
    medians = {
        world: {stage: statistics.median(row[stage] for row in rows) for stage in STAGES}
        for world, rows in found.items()
    }
    result = {
        **record.made_with(load_model(name, weights=weights or None)),
        "cores": len(os.sched_getaffinity(0)),
        "seconds": {str(world): rows for world, rows in found.items()},
    }
    text = table(medians, arguments)
    print(text)
    if arguments.out:
        record.write(arguments.out, f"ranks_{name}", result, text)


def table(medians: dict[int, dict[str, float]], arguments: argparse.Namespace) -> str:
    """A row a stage: seconds at each number of ranks, and the share of the ideal."""
    worlds = list(medians)
    head = "".join(f" {world} rank{'s' * (world > 1)} | efficiency |" for world in worlds)
    lines = [f"| stage |{head}", "|---|" + "---|---|" * len(worlds)]
    for stage in STAGES:
        one = medians[worlds[0]][stage] * worlds[0]
        cells = [
            f" {medians[world][stage]:.1f} s | {one / (world * medians[world][stage]):.0%} |"
            for world in worlds
        ]
        lines.append(f"| {stage} |{''.join(cells)}")
    return "\n".join(
        [
            *lines,
            "",
            f"Median of {arguments.rounds} rounds in turns; {arguments.batches} batches of "
            f"{arguments.batch_size} images in {arguments.iterations} iterations, a fit to "
            f"{arguments.fitted} images, {arguments.steps} steps of 16 images; one thread a rank, "
            f"{len(os.sched_getaffinity(0))} cores. One rank on one core is 100 %.",
            "",
        ]
    )


def _run(world: int) -> dict[str, float]:
    launcher = ["-m", "torch.distributed.run", "--nproc-per-node", str(world)]
    with tempfile.NamedTemporaryFile() as file:
        subprocess.run(
            [sys.executable, *launcher, *sys.argv, "--answer", file.name],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            check=True,
        )
        answer: dict[str, float] = json.loads(Path(file.name).read_text())
        return answer


def _work(model: LoadedModel, arguments: argparse.Namespace) -> None:
    """One rank: every stage timed from the moment that all ranks begin to that at which all end."""
    torch.set_num_threads(1)
    seconds: dict[str, float] = {}
    generator = torch.Generator().manual_seed(0)
    channels, height, width = model.preprocessing.input_shape
    shape = (arguments.fitted, height, width, channels)
    pixels = torch.randint(256, shape, generator=generator, dtype=torch.uint8)
    images = torch.from_numpy(model.preprocessing.normalize(pixels.numpy()))
    with ranks.joined() as group, tempfile.TemporaryDirectory() as folder:

        def timed(stage: str, do: Any) -> Any:
            group.barrier()
            started = time.perf_counter()
            done = do()
            group.barrier()
            seconds[stage] = time.perf_counter() - started
            return done

        synthesis = replace(
            SYNTHESIS_RECIPES["cpu"],
            images=arguments.batches * arguments.batch_size,
            batch_size=arguments.batch_size,
            iterations=arguments.iterations,
        )
        place = group.share(folder)
        timed("synthesis", lambda: synthesize(model, synthesis, out=Path(place) / "set"))
        plain = RangeRecipe(refit=False, rounding="nearest")
        timed("ranges", lambda: quantize(model, int4(), images, plain))
        whole = RangeRecipe()
        network = timed("fit", lambda: quantize(model, int4(), images, whole))
        seconds["fit"] -= seconds["ranges"]
        recipe = DistillationRecipe(steps=arguments.steps, views=_VIEWS, evaluate_every=1000)
        timed("distillation", lambda: distill(network, pixels[:32], recipe, held_out=pixels[:16]))
        if group.first:
            Path(arguments.answer).write_text(json.dumps(seconds))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", default="digits", help="NAME or NAME=WEIGHTS")
    parser.add_argument("--worlds", default="1,2")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batches", type=int, default=4)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--iterations", type=int, default=20)
    parser.add_argument("--fitted", type=int, default=128)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--answer", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
