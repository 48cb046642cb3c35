"""Results of benchmarks/guides.py: rank correlations, a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mimiq.config.precision import from_bits

PRECISIONS = {"w4a8": from_bits(4, 8), "w4a4": from_bits(4, 4)}
PROPERTIES = {
    "similarity": "inter-head similarity, mean magnitude of SSIM",
    "diversity": "token diversity, mean 1 − cosine between tokens of an image",
    "confidence": "confidence, mean top-1 probability",
    "classes": "entropy of the mean answer, nats",
    "reach": "reach, mean log₂ of the largest input of each Linear",
    "dimension": "dimension, mean effective rank of the inputs of each Linear",
}
PHOTOGRAPHS = "photographs"  # an upper bound
TRANSFER = "transfer, mean log of the logit error on the other sets, against other sets' there"


def note_transfer(sets: dict[str, Any]) -> None:
    """:data:`TRANSFER` of each set, from its errors on sets that share no image with it.

    Errors on one set count against the median there, for some are hard for every network.
    """
    for label in PRECISIONS:
        errors = [values[label]["on"] for values in sets.values()]
        usual = {k: np.median([e[k] for e in errors if k in e]) for some in errors for k in some}
        for values in sets.values():
            on = values[label]["on"]
            ratios = [np.log(error / usual[other]) for other, error in on.items()]
            values[label]["transfer"] = float(np.mean(ratios))


def correlations(sets: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Spearman's, of each property (and each block's similarity) with the closeness it gives.

    Closeness is the negative logit error: positive means that more of the property is better.
    """
    found: dict[str, dict[str, float]] = {}
    for label in PRECISIONS:
        closeness = [-values[label]["error"] for values in sets.values()]
        found[label] = {
            name: spearman([values[name] for values in sets.values()], closeness)
            for name in PROPERTIES
        }
        found[label][TRANSFER] = spearman(
            [values[label]["transfer"] for values in sets.values()], closeness
        )
        blocks = zip(*(values["per_block"] for values in sets.values()), strict=True)
        for index, block in enumerate(blocks):
            found[label][f"similarity of block {index + 1}"] = spearman(list(block), closeness)
    return found


def spearman(first: list[float], second: list[float]) -> float:
    """Rank correlation; without ties."""
    ranks = [np.argsort(np.argsort(values)) for values in (first, second)]
    return float(np.corrcoef(*ranks)[0, 1])


def table(result: dict[str, Any]) -> str:
    """Markdown: sets by what came of them, then the rank correlations."""
    lines = [
        f"# What predicts accuracy, {result['model']['architecture']}",
        "",
        f"{result['images']} calibration images of each kind ({result['iterations']} iterations "
        f"where synthesised, seed {result['seed']}), no distillation; judged on "
        f"{result['judged_on']} real images against full precision. {result['hardware']}, torch "
        f"{result['torch']}.",
        "",
        f"| calibration images | {' | '.join(PROPERTIES)} "
        "| W4A8: logit error, same answer, transfer | W4A4: logit error, same answer, transfer |",
        "|" + "---|" * (len(PROPERTIES) + 3),
    ]
    for name, values in result["sets"].items():
        cells = [f"{values[key]:.3f}" for key in PROPERTIES]
        cells += [
            f"{values[label]['error']:.3f}, {100 * values[label]['agreement']:.1f} %, "
            f"{values[label]['transfer']:+.2f}"
            for label in PRECISIONS
        ]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    lines += ["", "Rank correlation with closeness to full precision (−1 … 1):", ""]
    lines += ["| property | W4A8 | W4A4 |", "|---|---|---|"]
    for key in result["rank_correlation"]["w4a8"]:
        cells = [f"{result['rank_correlation'][label][key]:+.2f}" for label in PRECISIONS]
        lines.append(f"| {PROPERTIES.get(key, key)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def plot(result: dict[str, Any], path: Path) -> None:
    """One panel a property: the property across, the logit error it came with upwards."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    titles = {**PROPERTIES, TRANSFER: TRANSFER}
    figure, panels = plt.subplots(1, len(titles), figsize=(24, 4.2), sharey=True)
    names = list(result["sets"])
    markers = "o^sPDvX*<>dph"
    for axes, (key, title) in zip(panels, titles.items(), strict=True):
        for index, name in enumerate(names):
            values = result["sets"][name]
            found = values["w4a4"]
            x = found["transfer"] if key == TRANSFER else values[key]
            axes.scatter(x, found["error"], marker=markers[index], s=60, label=name)
        rank = result["rank_correlation"]["w4a4"][key]
        axes.set_title(f"{title.split(',')[0]}\nrank correlation {rank:+.2f}", fontsize=10)
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("W4A4: logit error on real images")
    panels[-1].legend(frameon=False, fontsize=8, bbox_to_anchor=(1.02, 1), loc="upper left")
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
