"""What each kind of calibration image buys: so many synthesised ones beside so many random scenes.

A set is synthesised once; smaller ones are its first images, since a batch depends on the seed and
its index alone. Each mixture fits the same network without distillation, and is judged on folders
of images that nothing is fitted to.

    python benchmarks/image_counts.py --model deit_t --weights deit_tiny_patch16_224.safetensors \\
        --set calibration-set --judge photographs --judge wallpapers

Means over the seeds and networks that were measured, each mixture against ``192+192``:

    python benchmarks/image_counts.py --summary
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import record
import torch
from accuracy_variants import PRECISIONS
from judge import Judge

from mimiq.calibrate.dataset import CalibrationSet
from mimiq.config.precision import Precision
from mimiq.config.recipes import recipe_for
from mimiq.models import LoadedModel, load_model
from mimiq.quantize.insert import quantize
from mimiq.runtime.preprocessing import ByteArray
from mimiq.synthesis.scenes import scenes

REFERENCE = (192, 192)
MIXTURES = ((0, 384), (0, 1024), (16, 192), (48, 192), (48, 512), (192, 192), (192, 832))


def main() -> None:
    arguments = _arguments()
    if arguments.summary:
        print(summary(arguments.output))
        return
    model = load_model(arguments.model, weights=arguments.weights)
    judges = {
        folder.name: Judge.on_folder(model, folder, arguments.judges) for folder in arguments.judge
    }
    pixels = CalibrationSet.open(arguments.set).images()
    study = f"image_counts_{arguments.model}_seed{arguments.seed}"
    file = arguments.output / f"{study}.json"
    rows: list[dict[str, Any]] = json.loads(file.read_text())["rows"] if file.is_file() else []
    for label, (synthesised, drawn) in itertools.product(arguments.bits, arguments.mixtures):
        if any((row["bits"], row["mixture"]) == (label, [synthesised, drawn]) for row in rows):
            continue
        images = mixture(pixels, synthesised, drawn, model.preprocessing.height, arguments.seed)
        rows.append(
            {"bits": label, "mixture": [synthesised, drawn]}
            | fitted(model, PRECISIONS[label], images, judges)
        )
        print(rows[-1], flush=True)
        result = {**record.made_with(model), "seed": arguments.seed, "rows": rows}
        record.write(arguments.output, study, result, table(rows))
    print(table(rows))


def mixture(pixels: ByteArray, synthesised: int, drawn: int, side: int, seed: int) -> ByteArray:
    """Scenes and the set's first images, in this order: uint8 (B, S, S, 3)."""
    parts = [scenes(drawn, side, seed)] if drawn else []
    return np.concatenate([*parts, pixels[:synthesised]])


def fitted(
    model: LoadedModel, precision: Precision, pixels: ByteArray, judges: dict[str, Judge]
) -> dict[str, Any]:
    """The errors of a network fitted to ``pixels``, and the seconds that this took."""
    images = torch.from_numpy(model.preprocessing.normalize(pixels))
    started = time.monotonic()
    module = quantize(model, precision, images, recipe_for("cpu", precision).ranges).module
    seconds = time.monotonic() - started
    return {"seconds": seconds, **{name: judge.judge(module) for name, judge in judges.items()}}


def table(rows: list[dict[str, Any]]) -> str:
    """Logit errors in percent of their variance, answers that stay, and seconds of the fit."""
    judges = [name for name, value in rows[0].items() if isinstance(value, dict)]
    head = ["precision", "synthesised", "scenes", "fit, s"]
    head += [f"{name}: {what}" for name in judges for what in ("error, %", "same answer, %")]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for row in rows:
        cells = [row["bits"], *map(str, row["mixture"]), f"{row['seconds']:.0f}"]
        for name in judges:
            cells += [f"{100 * row[name]['error']:.2f}", f"{100 * row[name]['agreement']:.1f}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def summary(folder: Path) -> str:
    """Mean errors over seeds in percent, and against those of the most synthesised images."""
    found: dict[tuple[str, str, tuple[int, int]], list[dict[str, float]]] = defaultdict(list)
    for file in sorted(folder.glob("image_counts_*_seed*.json")):
        study = json.loads(file.read_text())
        for row in study["rows"]:
            errors = {k: 100 * v["error"] for k, v in row.items() if isinstance(v, dict)}
            found[study["model"]["name"], row["bits"], tuple(row["mixture"])].append(errors)
    kinds = list(next(iter(found.values()))[0])
    head = ["network", "precision", "images", "seeds", *(f"{kind}: error, %" for kind in kinds)]
    lines = ["| " + " | ".join(head) + " |", "|---" * len(head) + "|"]
    for (name, bits, mixture), seeds in sorted(found.items()):
        cells = [name, bits, "{} and {}".format(*mixture), str(len(seeds))]
        against = found.get((name, bits, REFERENCE))
        for kind in kinds:
            mean = statistics.mean(errors[kind] for errors in seeds)
            change = ""
            if against and mixture != REFERENCE and len(against) == len(seeds):
                wanted = statistics.mean(errors[kind] for errors in against)
                change = f" ({100 * (mean / wanted - 1):+.0f} %)"
            cells.append(f"{mean:.2f}{change}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _mixture(text: str) -> tuple[int, int]:
    synthesised, drawn = text.split("+")
    return int(synthesised), int(drawn)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--model", default="deit_t")
    add("--weights", type=Path)
    add("--set", type=Path, help="a set that mimiq synthesize wrote")
    add("--judge", type=Path, action="append", help="a folder; may be repeated")
    add("--judges", type=int, default=128, help="images of each folder")
    add("--bits", nargs="+", choices=PRECISIONS, default=["w8a8", "w4a8"])
    add("--mixtures", nargs="+", type=_mixture, default=MIXTURES, help="for example 48+192")
    add("--seed", type=int, default=0)
    add("--output", type=Path, default=Path(__file__).parent / "results")
    add("--summary", action="store_true", help="tabulate what --output holds")
    arguments = parser.parse_args()
    if not (arguments.summary or (arguments.set and arguments.judge)):
        parser.error("give --set and --judge, or --summary")
    return arguments


if __name__ == "__main__":
    main()
