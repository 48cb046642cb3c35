"""What a calibration set must be like: which of its properties predicts the accuracy it gives.

The paper reports that inter-head similarity does (rank correlation 0.997). Here sets of different
kinds, equally large, calibrate the same network, without distillation, and what comes of it on real
images is set against properties that can be known without any: the similarity, the diversity of
tokens, the entropy of the answers, how far activations reach and how many directions they take, and
the error that the calibrated network makes on the other sets. Real images judge; they choose
nothing.

    python benchmarks/guides.py --weights deit_tiny_patch16_224.safetensors --real imagenet/val
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import record
import torch
from guides_results import PHOTOGRAPHS, PRECISIONS, correlations, note_transfer, plot, table
from judge import Judge
from similarity import note_similarity
from torch.nn import functional as F

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.calibrate.sources import from_folder, gaussian_noise
from mimiq.config.recipes import recipe_for
from mimiq.config.synthesis import SYNTHESIS_RECIPES
from mimiq.models import LoadedModel, load_model, observe_attention, quantizable_layers
from mimiq.quantize.hooks import watch_inputs
from mimiq.quantize.insert import quantize
from mimiq.synthesis.mimiq import synthesize
from mimiq.synthesis.psaq import PsaqRecipe, synthesize_psaq
from mimiq.synthesis.scenes import scenes

ByteArray = npt.NDArray[np.uint8]


def main() -> None:
    arguments = _arguments()
    model = load_model(arguments.model, weights=arguments.weights)
    real = Judge.on_folder(model, arguments.real, arguments.judges)
    study = f"guides_{model.name}"
    pixels = dict(_sets(model, arguments))
    images = {
        name: torch.from_numpy(model.preprocessing.normalize(kind)) for name, kind in pixels.items()
    }
    probes = {name: Judge(model, kind) for name, kind in images.items() if name != PHOTOGRAPHS}
    sets: dict[str, Any] = {}
    for name, kind in images.items():
        sets[name] = properties(model, kind)
        strange = {k: probe for k, probe in probes.items() if not _share(pixels, name, k)}
        for label, precision in PRECISIONS.items():
            module = quantize(model, precision, kind, recipe_for("cpu", precision).ranges).module
            sets[name][label] = {
                **real.judge(module),
                "on": {other: probe.judge(module)["error"] for other, probe in strange.items()},
            }
        print(name, {key: value for key, value in sets[name].items() if key != "per_block"})
        result = {
            **record.made_with(model),
            "images": arguments.count,
            "iterations": arguments.iterations,
            "seed": arguments.seed,
            "judged_on": len(real.images),
            "sets": sets,
        }
        note_transfer(sets)
        if len(sets) > 2:
            result["rank_correlation"] = correlations(sets)
        record.write(arguments.output, study, result)
    record.write(arguments.output, study, result, table(result))
    plot(result, arguments.output / f"{study}.png")
    print(table(result))


def _share(pixels: dict[str, ByteArray], first: str, second: str) -> bool:
    """Whether two sets have an image in common."""
    known = {image.tobytes() for image in pixels[first]}
    return any(image.tobytes() in known for image in pixels[second])


@torch.inference_mode()
def properties(model: LoadedModel, images: torch.Tensor) -> dict[str, Any]:
    """:data:`PROPERTIES` of normalised images (B, 3, S, S), and the similarity of each block."""
    similarity: list[torch.Tensor] = []
    diversity: list[float] = []
    answers: list[torch.Tensor] = []
    reach: dict[str, float] = {}
    moments: dict[str, torch.Tensor] = {}

    def see_input(name: str, x: torch.Tensor) -> None:
        reach[name] = max(reach.get(name, 0.0), float(x.abs().max()))
        rows = x.flatten(0, -2).double()
        moments[name] = moments.get(name, 0) + rows.T @ rows

    def see_tokens(_module: torch.nn.Module, _inputs: Any, tokens: torch.Tensor) -> None:
        unit = F.normalize(tokens[:, 1:] - tokens[:, 1:].mean((0, 1)), dim=-1)
        diversity.append(1 - float((unit @ unit.transpose(1, 2)).mean()))

    linears = {
        name: layer
        for name, layer in quantizable_layers(model.module).items()
        if isinstance(layer, torch.nn.Linear)
    }
    attentions = model.family.attentions(model.module)
    with ExitStack() as hooks:
        hooks.enter_context(watch_inputs(linears, see_input))
        for block in model.family.blocks(model.module):
            hooks.callback(block.register_forward_hook(see_tokens).remove)
        for part in images.split(8):
            blocks: list[torch.Tensor] = []
            with observe_attention(attentions, scores=note_similarity(blocks)):
                answers.append(model.module(part).softmax(-1))
            similarity.append(torch.stack(blocks, dim=1))
    answer = torch.cat(answers)
    mean = answer.mean(0)
    per_block = torch.cat(similarity).mean(0)
    return {
        "similarity": float(per_block.mean()),
        "per_block": per_block.tolist(),
        "diversity": float(np.mean(diversity)),
        "confidence": float(answer.amax(-1).mean()),
        "classes": float(-(mean * mean.clamp_min(1e-12).log()).sum()),
        "reach": float(np.mean(np.log2(list(reach.values())))),
        "dimension": float(np.mean([effective_rank(moment) for moment in moments.values()])),
    }


def effective_rank(moment: torch.Tensor) -> float:
    """exp of the entropy of the eigenvalues of a second moment (C, C), as shares of their sum."""
    values = torch.linalg.eigvalsh(moment).clamp_min(0)
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())


def _sets(model: LoadedModel, arguments: argparse.Namespace) -> Iterator[tuple[str, ByteArray]]:
    """Calibration images uint8 (B, S, S, 3) by name; what is synthesised stays in ``--sets``."""
    count, seed, size = arguments.count, arguments.seed, model.preprocessing.image_size
    options: dict[str, Any] = {"seed": seed, "device": "auto"}
    plain = replace(
        SYNTHESIS_RECIPES["paper"], name="guides", images=count, iterations=arguments.iterations
    )

    def ours(name: str, **changes: Any) -> ByteArray:
        out = arguments.sets / f"{model.name}-{name}"
        return synthesize(model, replace(plain, **changes), out=out, **options).images()

    noise = gaussian_noise(model.preprocessing, count, seed, arguments.sets / f"{model.name}-noise")
    drawn = scenes(count, size, seed)
    yield "Gaussian noise", noise.images()
    yield "random scenes", drawn
    yield "ours", (smooth := ours("smooth", tv_weight=0.01))
    yield "ours and scenes", np.concatenate([smooth[::2], drawn[::2]])
    yield "ours, no similarity loss", ours("smooth-without", tv_weight=0.01, similarity_weight=0.0)
    yield "ours, published smoothness", ours("rough")
    yield "ours, 10 iterations", ours("short", tv_weight=0.01, iterations=10)
    psaq: CalibrationSet = synthesize_psaq(
        model, PsaqRecipe.matching(plain), out=arguments.sets / f"{model.name}-psaq", **options
    )
    yield "PSAQ-ViT", psaq.images()
    grown = replace(SYNTHESIS_RECIPES["cpu"], images=count, iterations=arguments.iterations)
    out = arguments.sets / f"{model.name}-from-scenes"
    from_scenes = synthesize(model, grown, out=out, **options).images()
    yield "ours, from scenes", from_scenes
    fresh = scenes(count, size, seed + 1)
    yield "ours, from scenes, and scenes", np.concatenate([from_scenes[::2], fresh[::2]])
    if arguments.photographs:
        out = arguments.sets / f"{model.name}-photographs"
        folder = arguments.photographs
        yield PHOTOGRAPHS, from_folder(folder, model.preprocessing, out, count, seed).images()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="deit_t")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--real", type=Path, required=True, help="labelled images that judge")
    parser.add_argument("--photographs", type=Path, help="a set to compare with, not of --real")
    parser.add_argument("--judges", type=int, default=250, help="how many of them")
    parser.add_argument("--count", type=int, default=48, help="calibration images of each kind")
    parser.add_argument("--iterations", type=int, default=80)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sets", type=Path, default=Path("build/guides"), help="synthesised sets stay here"
    )
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


if __name__ == "__main__":
    main()
