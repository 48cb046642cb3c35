"""What each precision and each part of the method costs or gains, on the exported graph.

Every row is one compilation, measured as ``mimiq-compile --eval`` measures it: the graph under ONNX
Runtime against the full-precision network on the same labelled images, which choose nothing.

    python benchmarks/accuracy.py --weights deit_tiny_patch16_224.safetensors --eval imagenet/val \\
        --rows w8a8,w4a8 --variants default,noise --seeds 0,1,2 --output results/accuracy.json

The paper's method and its ablation, at a scale for a CPU:

    python benchmarks/accuracy.py … --recipe paper --images 64 --iterations 80 --steps 200 \\
        --optimizer adamw --rows w4a8-uniform --output results/ablation_deit_t.json \\
        --variants noise,no-similarity,default,psaq,no-head-distillation

What each part of ours gives, before distillation:

    python benchmarks/accuracy.py … --steps 0 --rows w4a8-uniform \\
        --output results/parts_deit_t.json \\
        --variants default,no-rotation,no-refit,nearest-rounding,no-procedural,minmax-ranges

Rows that the output file holds already are not measured again; stages come from the cache.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from statistics import mean
from typing import Any

import torch

from mimiq.cache import Cache, default_cache_dir
from mimiq.cli.terminal_progress import shown_progress
from mimiq.devices import describe_device, pick_device
from mimiq.files import write_whole
from mimiq.job import Job
from mimiq.models import load_model
from mimiq.pipeline import compile_model
from mimiq.precision import Precision, from_bits, weight_only
from mimiq.quantization import RangeRecipe
from mimiq.recipes import NAMES, Recipe, recipe_for
from mimiq.runtime.accuracy import Comparison
from mimiq.runtime.datasets import open_dataset

PRECISIONS: dict[str, Precision] = {
    "w8a8": from_bits(8, 8),
    "w4a16-b64": weight_only(4, 64),
    "w4a8": from_bits(4, 8),
    "w5a5": from_bits(5, 5),
    "w4a4": from_bits(4, 4),
    # The classifier with the bits of every other Linear, as in the paper.
    "w4a16-b64-uniform": weight_only(4, 64, uniform=True),
    "w4a8-uniform": from_bits(4, 8, uniform=True),
    "w5a5-uniform": from_bits(5, 5, uniform=True),
    "w4a4-uniform": from_bits(4, 4, uniform=True),
}


def _synthesis(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, synthesis=replace(recipe.synthesis, **changes))


def _distillation(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, distillation=replace(recipe.distillation, **changes))


def _ranges(**changes: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: replace(recipe, ranges=RangeRecipe(**(asdict(recipe.ranges) | changes)))


# What is different from the named recipe: the calibration images, and the recipe.
VARIANTS: dict[str, tuple[str, Callable[[Recipe], Recipe]]] = {
    "default": ("synthetic", lambda recipe: recipe),
    "noise": ("noise", lambda recipe: recipe),
    "psaq": ("psaq", lambda recipe: recipe),
    "real": ("real", lambda recipe: recipe),  # an upper bound: those of --real
    "no-similarity": ("synthetic", _synthesis(similarity_weight=0.0)),
    "no-procedural": ("synthetic", lambda recipe: replace(recipe, procedural=0)),
    "from-noise": ("synthetic", _synthesis(start="noise", lr=0.1, tv_weight=0.01)),
    "no-head-distillation": ("synthetic", _distillation(structural_weight=0.0)),
    # At the published weight where activations are coarse; ours has a tenth of it there.
    "published-structure": ("synthetic", _distillation(structural_weight=10.0)),
    "no-distillation": ("synthetic", _distillation(steps=0)),
    "more-steps": ("synthetic", _distillation(steps=600)),
    "no-refit": ("synthetic", _ranges(refit=False)),
    "nearest-rounding": ("synthetic", _ranges(rounding="nearest")),
    "percentile-ranges": ("synthetic", _ranges(observer="percentile")),
    "minmax-ranges": ("synthetic", _ranges(observer="minmax")),
    "no-importance": ("synthetic", _ranges(importance=False)),
    "no-centring": ("synthetic", _ranges(centre=False)),
    "one-step": ("synthetic", _ranges(two_steps=False)),
    "no-rotation": ("synthetic", _ranges(rotate=False, migrate=False)),
    "migration": ("synthetic", _ranges(rotate=False, migrate=True)),
}


def main() -> None:
    arguments = _arguments()
    result = _started(arguments)
    for row in arguments.rows:
        for variant in arguments.variants:
            for seed in arguments.seeds:
                key = f"{row}/{variant}/{seed}"
                if key in result["rows"]:
                    continue
                print(f"== {key}", flush=True)
                result["rows"][key] = measure(arguments, row, variant, seed)
                _write(arguments.output, result)
    print(table(result))
    arguments.output.with_suffix(".md").write_text(table(result) + "\n")


def measure(arguments: argparse.Namespace, row: str, variant: str, seed: int) -> dict[str, Any]:
    """Compile, and keep what the table needs of the report."""
    model = load_model(arguments.model, weights=arguments.weights)
    precision = PRECISIONS[row]
    calibration, changed = VARIANTS[variant]
    dataset = open_dataset(arguments.eval, model.num_classes)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            model=model,
            precision=precision,
            recipe=changed(_scaled(recipe_for(arguments.recipe, precision), arguments)),
            out=Path(scratch) / "bundle",
            calibration=arguments.real if calibration == "real" else calibration,
            seed=seed,
            device=arguments.device,
            evaluation=dataset,
            evaluation_name=arguments.eval.name,
            batches=(),
        )
        started = time.monotonic()
        bundle = compile_model(job, Cache(arguments.cache), shown_progress())
        report: Mapping[str, Any] = bundle.report or {}
        return {
            "recipe": job.recipe.to_json(),
            "calibration": {
                key: bundle.manifest["calibration"].get(key) for key in ("kind", "count")
            },
            "accuracy": report["accuracy"],
            "simulation": report["simulation"],
            "distillation": report["tuning"],
            "seconds_of_this_run": time.monotonic() - started,
            "mimiq": bundle.manifest["software"]["mimiq"],
            **_host(arguments),
        }


def _scaled(recipe: Recipe, arguments: argparse.Namespace) -> Recipe:
    """The recipe with the images, iterations, steps and optimiser that were asked for."""
    synthesis, distillation = recipe.synthesis, recipe.distillation
    if arguments.images:
        synthesis = replace(synthesis, images=arguments.images)
    if arguments.iterations:
        synthesis = replace(synthesis, iterations=arguments.iterations)
    if arguments.steps is not None:
        distillation = replace(
            distillation,
            steps=arguments.steps,
            evaluate_every=max(1, min(distillation.evaluate_every, arguments.steps)),
        )
    if arguments.optimizer == "adamw":
        # SGD at the paper's rate is made for epochs; the fast recipes' rates serve a few hundred
        # steps.
        quick = recipe_for("tiny", from_bits(4, 8)).distillation
        distillation = replace(
            distillation, optimizer="adamw", lr_weights=quick.lr_weights, lr_scales=quick.lr_scales
        )
    return replace(recipe, synthesis=synthesis, distillation=distillation)


def table(result: Mapping[str, Any]) -> str:
    """Markdown: one line a row, drops in points of top-1 with their 95 % intervals."""
    rows: Mapping[str, Any] = result["rows"]
    hosts = ", ".join(sorted({_host_of(result, row) for row in rows.values()}))
    head = (
        f"{result['model']}, recipe `{result['recipe']}`, {result['evaluation']} "
        f"({hosts}{result.get('scale', '')}). "
        "Points of top-1 lost by the exported graph under ONNX Runtime, with 95 % intervals; "
        "logit error is the mean squared difference from full precision over the logits' variance; "
        "held-out loss is the distillation loss on synthetic images that neither the fit nor "
        "distillation saw; where nothing is distilled there are none."
    )
    lines = [
        head,
        "",
        "| precision | variant | seed | images | full precision | top-1 | lost | as full precision "
        "| logit error | as simulated | held-out loss, before → after | on |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for key, row in rows.items():
        precision, variant, seed = key.split("/")
        found = Comparison.from_json(row["accuracy"])
        simulated = Comparison.from_json(row["simulation"])
        low, high = found.drop_interval
        lines.append(
            f"| {precision} | {variant} | {seed} | {row['calibration']['count']} "
            f"| {found.reference.top1:.1f} | {found.accuracy.top1:.1f} "
            f"| {found.drop:.1f} [{low:.1f}, {high:.1f}] | {100 * found.agreement:.1f} % "
            f"| {100 * found.logit_error:.2f} % | {100 * simulated.agreement:.1f} % "
            f"| {_held_out_loss(row['distillation'])} "
            f"| {_host_of(result, row)} |"
        )
    return "\n".join(lines + _over_seeds(rows))


def _held_out_loss(tuned: Mapping[str, Any]) -> str:
    return f"{tuned['initial_loss']:.3f} → {tuned['best_loss']:.3f}" if tuned["steps"] else "–"


def _host_of(result: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    hardware = row.get("hardware", result["hardware"]).split(",")[0]
    return f"{hardware}, torch {row.get('torch', result['torch'])}"


def _over_seeds(rows: Mapping[str, Any]) -> list[str]:
    """Where a row was measured with several seeds: their means, and the extremes of the loss."""
    groups: dict[str, list[Comparison]] = {}
    for key, row in rows.items():
        name = key.rpartition("/")[0]
        groups.setdefault(name, []).append(Comparison.from_json(row["accuracy"]))
    lines = [
        f"| {name.replace('/', ' | ')} | {len(found)} "
        f"| {mean(each.drop for each in found):.1f} "
        f"({min(each.drop for each in found):.1f} … {max(each.drop for each in found):.1f}) "
        f"| {100 * mean(each.agreement for each in found):.1f} % "
        f"| {100 * mean(each.logit_error for each in found):.2f} % |"
        for name, found in groups.items()
        if len(found) > 1
    ]
    if not lines:
        return []
    titles = ("precision", "variant", "seeds", "lost, mean (extremes)", "as full precision")
    head = " | ".join([*titles, "logit error"])
    return ["", f"| {head} |", "|---|---|---|---|---|---|", *lines]


def _started(arguments: argparse.Namespace) -> dict[str, Any]:
    """The output file's rows so far, or none.

    Raises:
        SystemExit: the file holds another experiment's rows.
    """
    asked = {
        "model": arguments.model,
        "recipe": arguments.recipe,
        "evaluation": f"evaluated on {arguments.eval.name}",
        "scale": "".join(
            f"; {name} {getattr(arguments, name)}"
            for name in ("images", "iterations", "steps", "optimizer")
            if getattr(arguments, name) is not None
        ),
    }
    if not arguments.output.is_file():
        return {**asked, **_host(arguments), "rows": {}}
    found: dict[str, Any] = json.loads(arguments.output.read_text())
    if others := [name for name in asked if found.get(name) != asked[name]]:
        raise SystemExit(
            f"{arguments.output} holds rows of another {' and '.join(others)}: "
            "give another --output."
        )
    return found


def _host(arguments: argparse.Namespace) -> dict[str, str]:
    """Of each row: a file may hold rows of several hosts."""
    return {
        "hardware": describe_device(pick_device(arguments.device)),
        "torch": torch.__version__,
    }


def _write(path: Path, result: Mapping[str, Any]) -> None:
    write_whole(path, json.dumps(result, indent=1) + "\n")


def _arguments() -> argparse.Namespace:
    def names(known: Mapping[str, object]) -> Callable[[str], list[str]]:
        def parse(text: str) -> list[str]:
            chosen = text.split(",")
            if unknown := [name for name in chosen if name not in known]:
                raise argparse.ArgumentTypeError(f"{unknown[0]} is none of {', '.join(known)}")
            return chosen

        return parse

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="labelled images")
    parser.add_argument("--real", type=Path, help="photographs for the variant real, not of --eval")
    parser.add_argument("--rows", type=names(PRECISIONS), default=list(PRECISIONS))
    parser.add_argument("--variants", type=names(VARIANTS), default=["default"])
    parser.add_argument("--seeds", type=lambda text: [int(s) for s in text.split(",")], default=[0])
    parser.add_argument("--recipe", choices=NAMES, default="cpu")
    parser.add_argument("--images", type=int, help="of the calibration set, not the recipe's")
    parser.add_argument("--iterations", type=int, help="of synthesis, not the recipe's")
    parser.add_argument("--steps", type=int, help="of distillation, not the recipe's")
    parser.add_argument("--optimizer", choices=["adamw"], help="of distillation, not the recipe's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--cache", type=Path, default=default_cache_dir())
    parser.add_argument(
        "--output", type=Path, default=Path("benchmarks/results/accuracy_deit_t.json")
    )
    arguments = parser.parse_args()
    if "real" in arguments.variants and arguments.real is None:
        parser.error("the variant real needs --real FOLDER")
    return arguments


if __name__ == "__main__":
    main()
