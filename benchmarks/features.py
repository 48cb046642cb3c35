"""What quantisation does to the features of a network without a classifier.

The network is fitted to random scenes, exported, and run by ONNX Runtime; its pooled features stand
beside those of full precision on images that nothing was fitted to, by the cosine of each pair.

    python benchmarks/features.py --model vit_small_patch14_dinov2 --image-size 224 \\
        --weights dinov2.safetensors --resize-as-dinov2 --eval imagenet/val
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy.typing as npt
import record
import torch
from accuracy_images import Images, answers, full_precision, spread
from accuracy_variants import PRECISIONS

from mimiq.cache import Cache, default_cache_dir
from mimiq.calibrate.sources import image_files
from mimiq.cli.terminal_progress import shown_progress
from mimiq.config.recipes import recipe_for
from mimiq.export import export_onnx, to_cpu
from mimiq.models import LoadedModel, load_model
from mimiq.progress import Progress
from mimiq.quantize.insert import QuantizedModel, quantize
from mimiq.runtime.bundle import CPU_MODEL, MODEL
from mimiq.runtime.evaluation.datasets import ImageFiles
from mimiq.runtime.evaluation.similarity import similarity
from mimiq.runtime.onnxruntime.session import OnnxRuntimeSession
from mimiq.runtime.opening import deployed_graph
from mimiq.runtime.preprocessing import FloatArray
from mimiq.synthesis.scenes import scenes


def main() -> None:
    arguments = _arguments()
    progress = shown_progress()
    model = opened(arguments)
    files = tuple(file for folder in arguments.eval for file in image_files(folder))
    images = spread(ImageFiles(files, (0,) * len(files), 1), arguments.judges or len(files))
    expected = full_precision(model, images, Cache(arguments.cache), progress)
    rows: dict[str, Any] = {}
    for row in arguments.rows.split(","):
        for seed in map(int, arguments.seeds.split(",")):
            started = time.monotonic()
            quantized = fitted(model, row, arguments.scenes, seed, progress)
            found = features(quantized, images, progress)
            rows[f"{row}/{seed}"] = compared(found, expected) | {
                "outliers": {each.layer: list(each.columns) for each in quantized.outliers},
                "seconds": time.monotonic() - started,
            }
            print(row, seed, rows[f"{row}/{seed}"], flush=True)
    result = {
        **record.made_with(model),
        "scenes": arguments.scenes,
        "judged_on": len(images),
        "rows": rows,
    }
    record.write(arguments.output.parent, arguments.output.name, result, table(result))
    print(table(result))


def opened(arguments: argparse.Namespace) -> LoadedModel:
    """The network; its position embedding resized as DINOv2's own code does where that is asked."""
    size = arguments.image_size
    if not arguments.resize_as_dinov2:
        return load_model(arguments.model, weights=arguments.weights, image_size=size)
    from safetensors.torch import load_file, save_file

    from mimiq.models.sources.positions import resized

    state = {name: tensor.float() for name, tensor in load_file(arguments.weights).items()}
    patch, position = state["patch_embed.proj.weight"].shape[-1], state["pos_embed"]
    trained, wanted = round((position.shape[1] - 1) ** 0.5), size // patch
    state["pos_embed"] = resized(
        position, (trained, trained), (wanted, wanted), prefix=1, antialias=False
    )
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / arguments.weights.name
        save_file(state, path)
        return load_model(arguments.model, weights=path, image_size=size)


def fitted(
    model: LoadedModel, row: str, count: int, seed: int, progress: Progress
) -> QuantizedModel:
    """The network at a row's precision, as the recipe ``cpu`` fits it, on random scenes alone."""
    precision = PRECISIONS[row]
    pixels = scenes(count, model.preprocessing.height, seed)
    images = torch.from_numpy(model.preprocessing.normalize(pixels))
    with progress.stage(f"quantize {row}") as stage:
        ranges = recipe_for("cpu", precision).ranges
        return quantize(model, precision, images, ranges, lambda text: stage.update(text=text))


def features(quantized: QuantizedModel, images: Images, progress: Progress) -> FloatArray:
    """The exported graph's features under ONNX Runtime, float32 (images, width)."""
    preprocessing = quantized.model.preprocessing
    with tempfile.TemporaryDirectory() as scratch:
        graphs = {name: Path(scratch) / name for name in (MODEL, CPU_MODEL)}
        plain = export_onnx(quantized.module, preprocessing.height, graphs[MODEL])
        to_cpu(plain, graphs[CPU_MODEL])
        graph = deployed_graph({name: path for name, path in graphs.items() if path.is_file()})
        with OnnxRuntimeSession(graph, device="auto", spinning=False) as session:
            return answers(session, images, preprocessing, progress, "features")


def compared(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> dict[str, Any]:
    """How near features are, as :class:`mimiq.runtime.evaluation.similarity.Similarity` says it.

    Args:
        found, expected: float32 (images, width).
    """
    return similarity(found, expected).to_json()


def table(result: dict[str, Any]) -> str:
    """Markdown: one line a precision and seed."""
    lines = [
        f"{result['model']['architecture']}, fitted to {result['scenes']} random scenes; cosine of "
        f"pooled features with full precision on {result['judged_on']} images, the exported graph "
        f"under ONNX Runtime ({result['hardware']}, torch {result['torch']}). Error is the mean "
        "squared difference over the features' variance; outliers are columns in floating point.",
        "",
        "| precision | seed | mean cosine | 5th percentile | least | error | outliers |",
        "|---|---|---|---|---|---|---|",
    ]
    for key, row in result["rows"].items():
        precision, seed = key.split("/")
        columns = sum(map(len, row["outliers"].values()))
        lines.append(
            f"| {precision} | {seed} | {row['mean']:.4f} | {row['percentile_5']:.4f} "
            f"| {row['least']:.4f} | {100 * row['error']:.2f} % "
            f"| {columns} in {len(row['outliers'])} Linears |"
        )
    return "\n".join(lines) + "\n"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="vit_small_patch14_dinov2")
    add("--weights", type=Path, required=True)
    add("--image-size", type=int, default=224)
    add(
        "--resize-as-dinov2",
        action="store_true",
        help="resize the position embedding bicubic without antialiasing; the file is safetensors",
    )
    add("--eval", type=Path, action="append", required=True, help="images; several are pooled")
    add("--judges", type=int, help="at most so many of them, evenly spread")
    add("--rows", default="w8a8,w4a16-b64,w4a8")
    add("--seeds", default="0")
    add("--scenes", type=int, default=192, help="random scenes to fit to")
    add("--cache", type=Path, default=default_cache_dir())
    add("--output", type=Path, default=Path("benchmarks/results/features_dinov2"))
    return parser.parse_args()


if __name__ == "__main__":
    main()
