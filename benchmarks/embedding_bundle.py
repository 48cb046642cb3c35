"""A feature extractor compiled whole, with few images: what its embeddings keep.

Synthesis at full size takes hours on two cores; here a few synthetic images of few steps and random
scenes stand for it, and nothing is distilled. The bundle's report has the figures.

    python benchmarks/embedding_bundle.py --model vit_small_patch14_dinov2 --image-size 224 \\
        --weights dinov2.safetensors --eval imagenet/val --limit 200 --bits w8a8 --out dinov2.mimiq
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from mimiq.cache import Cache, default_cache_dir
from mimiq.calibrate.sources import image_files
from mimiq.cli.terminal_progress import shown_progress
from mimiq.compiler import compile_model
from mimiq.config.precision import from_bits, parse_bits
from mimiq.config.recipes import recipe_for
from mimiq.models import load_model
from mimiq.runtime.evaluation.datasets import unlabelled
from mimiq.runtime.report.report import Report
from mimiq.runtime.report.terminal import render
from mimiq.spec import Job


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights, image_size=arguments.image_size)
    precision = from_bits(*parse_bits(arguments.bits))
    recipe = recipe_for("cpu", precision)
    synthesis = replace(
        recipe.synthesis,
        images=arguments.images,
        iterations=arguments.iterations,
        batch_size=min(arguments.images, recipe.synthesis.batch_size),
    )
    recipe = replace(
        recipe,
        synthesis=synthesis,
        procedural=arguments.scenes,
        distillation=replace(recipe.distillation, steps=arguments.steps),
    )
    job = Job(
        model=model,
        precision=precision,
        recipe=recipe,
        out=arguments.out,
        evaluation=unlabelled(image_files(arguments.eval), arguments.limit),
        evaluation_name=arguments.eval.name,
        batches=(),
        overwrite=True,
    )
    bundle = compile_model(job, Cache(arguments.cache), shown_progress()).bundle
    report = bundle.report or Report()
    Console().print(render(report))
    print(json.dumps(report.similarity and report.similarity.to_json(), indent=1))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="vit_small_patch14_dinov2")
    add("--weights", type=Path, required=True)
    add("--image-size", type=int, default=224)
    add("--eval", type=Path, required=True, help="images, which nothing is fitted to")
    add("--limit", type=int, help="at most so many of them, evenly spread")
    add("--bits", default="w8a8")
    add("--images", type=int, default=8, help="synthetic ones")
    add("--iterations", type=int, default=20, help="of synthesis")
    add("--scenes", type=int, default=64, help="random ones beside them")
    add("--steps", type=int, default=0, help="of distillation")
    add("--cache", type=Path, default=default_cache_dir())
    add("--out", type=Path, required=True)
    return parser.parse_args()


if __name__ == "__main__":
    main()
