"""How alike a network's heads attend on real images, noise and synthetic images, block by block.

Mean off-diagonal |SSIM| between the heads' maps
(:func:`mimiq.synthesis.similarity.inter_head_similarity`) for real images, Gaussian noise,
PSAQ-ViT's images, and ours without and with the similarity loss.
The paper observes that real images score high and naïve synthetic ones low; this says what holds
for the network at hand. The real images are looked at and never learned from.

    python benchmarks/similarity.py --weights deit_tiny_patch16_224.safetensors --real images/
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.calibrate.sources import gaussian_noise
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.devices import fast_dtype, pick_device
from mimiq.errors import BadInput
from mimiq.models import LoadedModel, load_model, observe_attention
from mimiq.quantize.hooks import evenly_spread
from mimiq.runtime.image_files import IMAGE_SUFFIXES
from mimiq.synthesis.mimiq import synthesize
from mimiq.synthesis.psaq import PsaqRecipe, synthesize_psaq
from mimiq.synthesis.similarity import inter_head_similarity, mean_off_diagonal

REAL, NOISE, PSAQ = "real images", "Gaussian noise", "PSAQ-ViT"
WITHOUT, WITH = "ours, no similarity loss", "ours"
# Colour-blind safe, and told apart in grey by their markers.
STYLES = {
    REAL: ("black", "o"),
    NOISE: ("#999999", "x"),
    PSAQ: ("#D55E00", "s"),
    WITHOUT: ("#56B4E9", "v"),
    WITH: ("#0072B2", "^"),
}


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights)
    device = pick_device(arguments.device)
    images = dict(_sources(model, arguments))
    result = {
        **record.made_with(model, device),
        "precision_of_synthesis": str(fast_dtype(device) or torch.float32).removeprefix("torch."),
        "recipe": arguments.recipe,
        "tv_weight": arguments.tv_weight,
        "images": arguments.count,
        "iterations": arguments.iterations,
        "batch_size": arguments.batch,
        "seed": arguments.seed,
        "similarity": {name: study(model, pixels) for name, pixels in images.items()},
    }
    name = f"similarity_{model.name}"
    record.write(arguments.output, name, result, table(result))
    plot(result, arguments.output / f"{name}.png")
    print(table(result))


def study(model: LoadedModel, images: torch.Tensor) -> dict[str, Any]:
    """Mean over images of each block's similarity, its standard error, and top-1 confidence."""
    rows: list[torch.Tensor] = []
    confidence = []
    attentions = model.family.attentions(model.module)
    for part in torch.split(images, 8):
        blocks: list[torch.Tensor] = []
        with (
            torch.inference_mode(),
            observe_attention(attentions, scores=note_similarity(blocks)),
        ):
            logits = model.module(part)
        rows.append(torch.stack(blocks, dim=1))
        confidence.append(logits.softmax(-1).amax(-1))
    per_image = torch.cat(rows)  # (images, blocks)
    error = per_image.std(0) / len(per_image) ** 0.5
    return {
        "per_block": per_image.mean(0).tolist(),
        "standard_error": error.tolist(),
        "mean": float(per_image.mean()),
        "mean_standard_error": float(per_image.mean(1).std() / len(per_image) ** 0.5),
        "confidence": float(torch.cat(confidence).mean()),
    }


def note_similarity(blocks: list[torch.Tensor]) -> Callable[[int, torch.Tensor], None]:
    """An observer of scores that appends each block's similarity, (B,)."""

    def observe(_block: int, scores: torch.Tensor) -> None:
        blocks.append(mean_off_diagonal(inter_head_similarity(scores)))

    return observe


def _sources(
    model: LoadedModel, arguments: argparse.Namespace
) -> Iterator[tuple[str, torch.Tensor]]:
    """Normalised images by name; what is synthesised stays in ``--sets`` and is reused."""
    if arguments.real:
        yield REAL, _real(model, arguments.real, arguments.count)
    recipe = replace(
        SYNTHESIS_RECIPES[arguments.recipe],
        tv_weight=arguments.tv_weight,
        name="study",
        images=arguments.count,
        iterations=arguments.iterations,
        batch_size=arguments.batch,
    )
    seed, sets = arguments.seed, arguments.sets
    options: dict[str, Any] = {"seed": seed, "device": arguments.device}
    makers: dict[str, Callable[[], CalibrationSet]] = {
        NOISE: lambda: gaussian_noise(
            model.preprocessing, arguments.count, seed, sets / f"{model.name}-noise"
        ),
        PSAQ: lambda: synthesize_psaq(
            model, PsaqRecipe.matching(recipe), out=sets / f"{model.name}-psaq", **options
        ),
        WITHOUT: lambda: synthesize(
            model,
            replace(recipe, similarity_weight=0.0),
            out=sets / f"{model.name}-without",
            **options,
        ),
        WITH: lambda: synthesize(model, recipe, out=sets / f"{model.name}-with", **options),
    }
    for name, make in makers.items():
        started = time.monotonic()
        made = make()
        print(f"{name}: {len(made)} images, {time.monotonic() - started:.0f} s")
        yield name, torch.from_numpy(model.preprocessing.normalize(made.images()))


def _real(model: LoadedModel, folder: Path, count: int) -> torch.Tensor:
    """``count`` images spread evenly over the sorted files of a folder."""
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
    if len(files) < count:
        raise BadInput(f"{folder} holds {len(files)} images, not {count}.", "Lower --count.")
    chosen = [files[index] for index in evenly_spread(len(files), count)]
    return torch.from_numpy(model.preprocessing.load(chosen))


def table(result: dict[str, Any]) -> str:
    """Markdown: one row a block, one column a source."""
    similarity = result["similarity"]
    names = list(similarity)
    blocks = len(similarity[names[0]]["per_block"])
    lines = [
        f"# Inter-head similarity, {result['model']['architecture']}",
        "",
        f"Mean off-diagonal |SSIM| between heads; {result['images']} images a column, "
        f"{result['iterations']} iterations in batches of {result['batch_size']}, "
        f"weights and views of recipe {result['recipe']} (total variation {result['tv_weight']}), "
        f"seed {result['seed']}. "
        f"{result['hardware']}, {result['precision_of_synthesis']}, "
        f"torch {result['torch']}. In the last rows ± is the standard error over images, and "
        "confidence the mean top-1 probability.",
        "",
        "| block | " + " | ".join(names) + " |",
        "|---|" + "---|" * len(names),
    ]
    for block in range(blocks):
        cells = (f"{similarity[name]['per_block'][block]:.3f}" for name in names)
        lines.append(f"| {block + 1} | " + " | ".join(cells) + " |")
    means = (
        f"{similarity[name]['mean']:.3f} ± {similarity[name]['mean_standard_error']:.3f}"
        for name in names
    )
    lines.append("| **mean** | " + " | ".join(means) + " |")
    if REAL in similarity:
        real = np.array(similarity[REAL]["per_block"])
        distances = (np.array(similarity[name]["per_block"]) - real for name in names)
        cells = (f"{np.sqrt(np.mean(distance**2)):.3f}" for distance in distances)
        lines.append("| distance to real, RMS over blocks | " + " | ".join(cells) + " |")
    confidence = (f"{similarity[name]['confidence']:.2f}" for name in names)
    lines.append("| confidence | " + " | ".join(confidence) + " |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """Similarity over depth, one line a source, a band of one standard error."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 4.8), layout="constrained")
    for name, values in result["similarity"].items():
        colour, marker = STYLES[name]
        mean, error = np.array(values["per_block"]), np.array(values["standard_error"])
        depth = np.arange(1, len(mean) + 1)
        axes.plot(depth, mean, color=colour, marker=marker, label=f"{name} ({values['mean']:.3f})")
        axes.fill_between(depth, mean - error, mean + error, color=colour, alpha=0.15, linewidth=0)
    axes.set_xticks(depth)
    axes.set_xlabel("Transformer block")
    axes.set_ylabel("Mean |SSIM| between heads")
    axes.set_title(f"Inter-head attention similarity, {result['model']['architecture']}")
    axes.grid(alpha=0.3)
    axes.legend(title="Images (mean over blocks)", frameon=False)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--real", type=Path, help="folder of real images; left out without it")
    parser.add_argument("--recipe", choices=SYNTHESIS_RECIPES, default="cpu")
    parser.add_argument("--tv-weight", type=float, default=0.01, help="of every batch")
    parser.add_argument("--count", type=int, default=32, help="images of each kind")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="auto")
    parser.add_argument(
        "--sets", type=Path, default=Path("build/similarity"), help="synthesised sets stay here"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
