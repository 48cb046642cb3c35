"""What photographs show a network that a calibration set does not, block by block.

Each Linear is rounded to four bits so that errors compensate on one kind of images (GPTQ), and the
error of its output is then taken on photographs: set against rounding for other photographs, it
says what the kind lacks. Early blocks miss edges and textures, late ones things. ``--patches``
draws what is missing: one direction a row, of those that photographs take and the images do not,
with the patches of photographs that take it furthest.

    python benchmarks/missing.py --weights deit_tiny_patch16_224.safetensors --photographs photos/
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import torch
from judge import Judge
from PIL import Image

from mimiq.calibrate.sources import from_folder, gaussian_noise
from mimiq.calibrate.weight_scale import mse_weight_scale
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.models import LoadedModel, load_model
from mimiq.quantize.fake_quant import Grid, Quantizer
from mimiq.quantize.gptq import element_scales, gptq
from mimiq.quantize.hooks import watch_inputs
from mimiq.quantize.layerwise import row_weights
from mimiq.quantize.rotation import rotate
from mimiq.synthesis.mimiq import synthesize
from mimiq.synthesis.scenes import scenes

ByteArray = npt.NDArray[np.uint8]
Moments = dict[str, torch.Tensor]  # of the inputs of each Linear, fp64 (C, C)

_GRID = Grid.weight(4)
_PATCH = 64  # pixels of the photograph around a token's own 16


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights)
    network = _Network(model)
    photographs = from_folder(
        arguments.photographs, model.preprocessing, arguments.sets / f"{model.name}-photographs"
    ).images()
    judges = {"photographs": network.moments(_normalized(model, photographs[::4]))}
    if arguments.real:
        real = Judge.on_folder(model, arguments.real, arguments.judges)
        judges["real"] = network.moments(real.images)
    others = np.delete(photographs, np.s_[::4], axis=0)
    at_best = network.errors(network.moments(_normalized(model, others)), judges)
    seen = dict(_kinds(model, network, arguments))
    found = {kind: network.errors(moments, judges) for kind, moments in seen.items()}
    result = {
        **record.made_with(model),
        "images": arguments.count,
        "seed": arguments.seed,
        "photographs": len(photographs),
        "ratios": {
            kind: {judge: network.by_block(errors[judge], at_best[judge]) for judge in judges}
            for kind, errors in found.items()
        },
    }
    record.write(arguments.output, f"missing_{model.name}", result, table(result))
    print(table(result))
    if arguments.patches:
        layer = f"blocks.{arguments.block - 1}.mlp.fc1"
        draw_patches(network, photographs, seen["ours + scenes"][layer], layer, arguments.patches)


class _Network:
    """The network in the basis in which it is quantised, and its Linears of the blocks by name."""

    def __init__(self, model: LoadedModel) -> None:
        self.model = model
        self.module = copy.deepcopy(model.module)
        rotate(model.family, self.module)
        names = {part: name for name, part in self.module.named_modules()}
        blocks = [
            {names[part]: part for part in block.modules() if isinstance(part, torch.nn.Linear)}
            for block in model.family.blocks(self.module)
        ]
        self.blocks = [list(block) for block in blocks]
        self.linears = {name: part for block in blocks for name, part in block.items()}
        self.prefix = model.family.attentions(self.module)[0].num_prefix_tokens

    @torch.no_grad()
    def moments(self, images: torch.Tensor) -> Moments:
        """Mean second moments, weighted as in the fit, of what the Linears take on images."""
        sums: Moments = {}

        def see(name: str, x: torch.Tensor) -> None:
            weights = row_weights(x.shape[1], self.prefix)
            rows = (x * weights.sqrt().unsqueeze(1)).flatten(0, 1)
            moment = (rows.T @ rows).double() / len(images)
            sums[name] = sums[name] + moment if name in sums else moment

        with watch_inputs(self.linears, see):
            for part in images.split(32):
                self.module(part)
        return sums

    def errors(self, seen: Moments, judges: Mapping[str, Moments]) -> dict[str, dict[str, float]]:
        """By judge and Linear, the squared error of a rounding that saw ``seen``."""
        found: dict[str, dict[str, float]] = {judge: {} for judge in judges}
        for name, layer in self.linears.items():
            weight = layer.weight.detach()
            quantizer = Quantizer(mse_weight_scale(weight, _GRID, 0, 0), _GRID, 0, 0)
            scales = element_scales(quantizer, weight)
            change = (gptq(weight, seen[name].float(), scales, _GRID) - weight).double()
            for judge, moments in judges.items():
                found[judge][name] = float(((change @ moments[name]) * change).sum())
        return found

    def by_block(self, errors: dict[str, float], at_best: dict[str, float]) -> list[float]:
        """The ratio of errors in each block, the geometric mean over its Linears."""
        return [
            float(np.exp(np.mean([np.log(errors[name] / at_best[name]) for name in block])))
            for block in self.blocks
        ]


def _kinds(
    model: LoadedModel, network: _Network, arguments: argparse.Namespace
) -> Iterator[tuple[str, Moments]]:
    count, seed, size = arguments.count, arguments.seed, model.preprocessing.image_size

    def folder(kind: str) -> Path:
        path: Path = arguments.sets / f"{model.name}-{kind}"
        return path

    noise = gaussian_noise(model.preprocessing, count, seed, folder("noise")).images()
    yield "Gaussian noise", network.moments(_normalized(model, noise))
    drawn = network.moments(_normalized(model, scenes(count, size, seed)))
    yield "scenes", drawn
    ours = replace(SYNTHESIS_RECIPES["cpu"], images=count)
    from_noise = replace(ours, start="noise", tv_weight=0.01, lr=0.1)
    for name, recipe in (("ours, from noise", from_noise), ("ours", ours)):
        out = folder(f"from-{recipe.start}")
        grown = synthesize(model, recipe, seed=seed, out=out, device="auto").images()
        moments = network.moments(_normalized(model, grown))
        yield name, moments
        yield f"{name} + scenes", {key: (moments[key] + drawn[key]) / 2 for key in moments}


def _normalized(model: LoadedModel, pixels: ByteArray) -> torch.Tensor:
    return torch.from_numpy(model.preprocessing.normalize(pixels))


def table(result: dict[str, Any]) -> str:
    """Markdown: the ratio of each kind, over all blocks and in thirds of them."""
    lines = [
        f"# What calibration images lack, {result['model']['architecture']}",
        "",
        "Error of Linears rounded to four bits for each kind of images, on photographs: how many "
        f"times that of rounding for other photographs of the same source ({result['photographs']} "
        f"in all). {result['images']} images of each kind, seed {result['seed']}. "
        f"{result['hardware']}, torch {result['torch']}.",
        "",
        "| rounded for | judged on | all blocks | first third | middle third | last third |",
        "|---|---|---|---|---|---|",
    ]
    for kind, judges in result["ratios"].items():
        for judge, ratios in judges.items():
            logs = np.log(ratios)
            parts = [logs, *np.array_split(logs, 3)]
            cells = " | ".join(f"{np.exp(part.mean()):.2f}" for part in parts)
            lines.append(f"| {kind} | {judge} | {cells} |")
    return "\n".join(lines) + "\n"


@torch.no_grad()
def draw_patches(
    network: _Network, photographs: ByteArray, seen: torch.Tensor, layer: str, path: Path
) -> None:
    """A sheet of the directions most missing at a Linear, ten rows of sixteen patches."""
    tokens: list[torch.Tensor] = []
    with watch_inputs({layer: network.linears[layer]}, lambda _, x: tokens.append(x)):
        for part in _normalized(network.model, photographs).split(32):
            network.module(part)
    x = torch.cat(tokens)[:, network.prefix :].double()
    rows = x.flatten(0, 1)
    # Directions v with the largest vᵀAv / vᵀBv, A of photographs and B of what was seen.
    floor = 0.01 * seen.diagonal().mean() * torch.eye(len(seen), dtype=torch.float64)
    inverse = torch.linalg.inv(torch.linalg.cholesky(seen + floor))
    _, vectors = torch.linalg.eigh(inverse @ (rows.T @ rows) @ inverse.T)
    directions = (inverse.T @ vectors).flip(1)[:, :10]
    strength = (x @ directions).abs()  # (photographs, tokens, 10)
    side, size = round(x.shape[1] ** 0.5), photographs.shape[1]
    sheet = Image.new("RGB", (16 * (_PATCH + 2), 10 * (_PATCH + 2)), "white")
    for row in range(10):
        strongest, places = strength[..., row].max(1)
        for column, index in enumerate(strongest.argsort(descending=True)[:16].tolist()):
            top, left = (
                min(max(int((at + 0.5) * size / side) - _PATCH // 2, 0), size - _PATCH)
                for at in divmod(int(places[index]), side)
            )
            patch = Image.fromarray(photographs[index, top : top + _PATCH, left : left + _PATCH])
            sheet.paste(patch, (column * (_PATCH + 2), row * (_PATCH + 2)))
    sheet.save(path)
    print(f"patches of {layer}: {path}")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--photographs", type=Path, required=True, help="a folder of 100 or more")
    parser.add_argument("--real", type=Path, help="labelled images that judge as well")
    parser.add_argument("--judges", type=int, default=125, help="how many of them")
    parser.add_argument("--count", type=int, default=96, help="calibration images of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patches", type=Path, help="draw what ours with scenes lack, to this PNG")
    parser.add_argument("--block", type=int, default=3, help="of the patches, from 1")
    parser.add_argument(
        "--sets", type=Path, default=Path("build/missing"), help="synthesised sets stay here"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
