"""What a compilation over many devices takes, on paper: time, memory, bytes moved between ranks.

Volumes are counted, not measured: they follow from the shapes. Times follow from the rates of one
device that are given, and are no measurement.

    python benchmarks/scaling.py --synthesis 17 --fit 4.7 --distillation 5.6 --network-gb 1.25
"""

from __future__ import annotations

import argparse
import math
from dataclasses import dataclass

DOUBLE, SINGLE = 8, 4
FOLDS = 2  # of the fit's moments


@dataclass(frozen=True)
class Shape:
    """A ViT as far as volumes and times follow from it."""

    name: str
    width: int
    depth: int
    tokens: int = 197
    patch: int = 16
    classes: int = 1000

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(inputs, outputs) of the Linears of a block."""
        width = self.width
        return [(width, 3 * width), (width, width), (width, 4 * width), (4 * width, width)]

    @property
    def parameters(self) -> int:
        """Weights, biases, norms, embeddings and the classifier."""
        width = self.width
        block = sum(i * o + o for i, o in self.linears) + 4 * width
        stem = 3 * self.patch**2 * width + width + width + self.tokens * width
        return self.depth * block + stem + 2 * width + width * self.classes + self.classes

    @property
    def products(self) -> int:
        """Multiplications of a forward of one image."""
        block = sum(i * o for i, o in self.linears) * self.tokens
        attention = 2 * self.tokens**2 * self.width
        stem = 3 * self.patch**2 * self.width * (self.tokens - 1)
        return self.depth * (block + attention) + stem + self.width * self.classes


DEIT_T = Shape("DeiT-T", 192, 12)
SHAPES = (Shape("DeiT-S", 384, 12), Shape("ViT-B", 768, 12), Shape("ViT-L", 1024, 24))


def moments_bytes(inputs: int, outputs: int, folds: int = FOLDS) -> int:
    """What one Linear's moments take: xxᵀ, dxᵀ and ‖d‖² of every fold, in fp64."""
    width = inputs + 1
    return folds * (width * width + outputs * width + 1) * DOUBLE


def fit_bytes(shape: Shape) -> int:
    """The messages of a fit: one all-reduce a Linear of a block."""
    return shape.depth * sum(moments_bytes(*linear) for linear in shape.linears)


def scales(shape: Shape) -> int:
    """Quantisers' parameters that distillation tunes: a scale a channel, and one a tensor."""
    block = sum(outputs + 1 for _, outputs in shape.linears) + 4
    return shape.depth * block + shape.width + shape.classes + 1


def step_bytes(shape: Shape) -> int:
    """The message of a step of distillation: every gradient and the loss, in fp32."""
    return (shape.parameters + scales(shape) + 1) * SINGLE


def set_bytes(images: int, side: int = 224) -> int:
    """The pixels and labels of a set, which travel only where ranks share no folder."""
    return images * (3 * side * side + 8)


def ring(message: int, ranks: int) -> float:
    """What each rank sends in an all-reduce by a ring."""
    return 2 * (ranks - 1) / ranks * message


def speedup(parts: int, ranks: int) -> float:
    """How much faster equal, indivisible parts are done: all ranks wait for the last."""
    return parts / math.ceil(parts / ranks)


def main() -> None:
    arguments = _arguments()
    print(volumes(arguments), end="\n\n")
    print(times(arguments))


def volumes(arguments: argparse.Namespace) -> str:
    """A row a network: the messages of each stage."""
    lines = [
        "| network | parameters | synthesis, shared folder | own folders | fit | "
        "largest message of the fit | step of distillation | all steps |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        largest = max(moments_bytes(*linear) for linear in shape.linears)
        step = step_bytes(shape)
        lines.append(
            f"| {shape.name} | {shape.parameters / 1e6:.1f} M | none | "
            f"{_size(set_bytes(arguments.images))} | {_size(fit_bytes(shape))} | {_size(largest)} |"
            f" {_size(step)} | {_size(step * arguments.steps)} |"
        )
    return "\n".join(lines)


def times(arguments: argparse.Namespace) -> str:
    """A row a network and number of ranks: hours of each stage, from the rates given."""
    batches = math.ceil(arguments.images / arguments.batch_size)
    lines = [
        f"{arguments.images} images in {batches} batches of {arguments.batch_size} and "
        f"{arguments.iterations} iterations; {arguments.fitted} images fitted; {arguments.steps} "
        f"steps of {arguments.step_images}; {arguments.network_gb:g} GB/s between ranks.",
        "",
        "| network | ranks | synthesis | speed-up | fit | moving | distillation | moving |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for shape in SHAPES:
        slower = shape.products / DEIT_T.products
        for ranks in (1, 2, 4, 8, 16, 32, 64):
            gained = speedup(batches, ranks)
            made = arguments.images * arguments.iterations * slower / arguments.synthesis / gained
            chunks = math.ceil(arguments.fitted / 32)
            shared = (1 - arguments.alone) / speedup(chunks, ranks)
            fitted = arguments.fitted * slower / arguments.fit * (arguments.alone + shared)
            fit_moved = ring(fit_bytes(shape), ranks) / arguments.network_gb / 1e9
            shares = speedup(arguments.step_images, ranks)
            step = arguments.step_images * slower / arguments.distillation / shares
            step_moved = ring(step_bytes(shape), ranks) / arguments.network_gb / 1e9
            lines.append(
                f"| {shape.name} | {ranks} | {_time(made)} | {gained:.1f} | "
                f"{_time(fitted + fit_moved)} | {fit_moved / (fitted + fit_moved):.0%} | "
                f"{_time(arguments.steps * (step + step_moved))} | "
                f"{step_moved / (step + step_moved):.0%} |"
            )
    return "\n".join(lines)


def _size(count: float) -> str:
    for unit, factor in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{count / 1e3:.0f} kB"


def _time(seconds: float) -> str:
    if seconds >= 172_800:
        return f"{seconds / 86_400:.1f} d"
    return f"{seconds / 3600:.1f} h" if seconds >= 3600 else f"{seconds / 60:.1f} min"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--iterations", type=int, default=160)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--fitted", type=int, default=1024)
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--step-images", type=int, default=32)
    parser.add_argument("--network-gb", type=float, default=10.0, help="GB/s between ranks")
    rates = "of DeiT-T on one device; others by their multiplications"
    parser.add_argument("--synthesis", type=float, default=1.0, help=f"image-steps/s {rates}")
    parser.add_argument("--fit", type=float, default=1.0, help=f"images/s {rates}")
    parser.add_argument("--alone", type=float, default=0.4, help="of the fit, by every rank alike")
    parser.add_argument("--distillation", type=float, default=1.0, help=f"images/s {rates}")
    return parser.parse_args()


if __name__ == "__main__":
    main()
