"""Train the embedded model: ``python -m mimiq.models.digits.train [--out DIR]``.

Writes the weights (fp16) and the held-out images into the package itself, or into DIR; with
``--variant NAME``, a network of another shape into DIR, in timm's form. Everything follows from the
seed; on another machine or another number of threads, sums are taken in another order, so the
weights differ in their last digits. Nothing is chosen by looking at the held-out images: the recipe
is fixed and the last step's weights are kept.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from mimiq.errors import BadInput, CheckFailed, MimiqError, missing_extra
from mimiq.models.digits import (
    FOLDER,
    HELDOUT_FILE,
    WEIGHTS_FILE,
    build_digits,
    digits_preprocessing,
)
from mimiq.models.digits.variants import CONFIG, VARIANT_WEIGHTS, VARIANTS, Variant

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]

SEED = 0
HELDOUT_SHARE = 0.2
LEAST_ACCURACY = 0.97
EPOCHS = 40
BATCH = 32
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 0.05
LABEL_SMOOTHING = 0.1
WARMUP = 0.1  # of all steps


def digits_images() -> tuple[Images, Labels]:
    """All of scikit-learn's digits: uint8 (1797, 32, 32, 3) and int64 (1797,).

    The 8×8 grey images in 0 … 16 become bytes and go through the model's own preprocessing, which
    enlarges them: an 8×8 file given to the compiled model is seen as it was in training.

    Raises:
        EnvironmentLacks: without scikit-learn.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_extra("scikit-learn", "dev") from error
    from PIL import Image

    digits = load_digits()
    grey = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    crop = digits_preprocessing().crop
    images = np.stack([crop(Image.fromarray(image)) for image in grey])
    return images, digits.target.astype(np.int64)


def split(labels: Labels, seed: int = SEED) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
    """Indices to train on and indices to hold out: a fifth of each class, both sorted.

    ``RandomState`` because its stream is frozen: the split is the same under every numpy.
    """
    random = np.random.RandomState(seed)
    heldout = []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        heldout.append(members[: round(HELDOUT_SHARE * len(members))])
    out = np.sort(np.concatenate(heldout))
    return np.setdiff1d(np.arange(len(labels)), out), out


def augment(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Rotate, scale, shear and shift each image a little, and change its contrast and brightness.

    Args:
        images: normalised, (B, 3, H, W).
        generator: the only source of randomness.
    """

    def uniform(limit: float) -> torch.Tensor:
        return (2 * torch.rand(len(images), generator=generator) - 1) * limit

    angle, shear, scale = uniform(math.radians(12)), uniform(0.15), torch.exp(uniform(0.15))
    rows = [
        [scale * angle.cos(), scale * (shear - angle.sin()), uniform(0.15)],
        [scale * angle.sin(), scale * angle.cos(), uniform(0.15)],
    ]
    affine = torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    contrast, brightness = torch.exp(uniform(0.2)), uniform(0.1)
    changed = moved * contrast[:, None, None, None] + brightness[:, None, None, None]
    return changed.clamp(-1, 1)


def train(
    images: Images,
    labels: Labels,
    epochs: int = EPOCHS,
    seed: int = SEED,
    build: Callable[[int], nn.Module] = build_digits,
) -> nn.Module:
    """Train from scratch: AdamW, warm-up and cosine, label smoothing.

    Args:
        images: uint8 (N, 32, 32, 3).
        labels: int64 (N,).
        build: the network before training, from the seed.

    Returns:
        The network of the last step, eval mode, rounded to fp16 values in fp32 parameters.

    Raises:
        BadInput: for less than one epoch.
    """
    if epochs < 1:
        raise BadInput(f"{epochs} epochs are no training.", "Give --epochs 1 or more.")
    module = build(seed).train()
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.from_numpy(digits_preprocessing().normalize(images))
    targets = torch.from_numpy(labels)
    per_epoch = math.ceil(len(inputs) / BATCH)
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    vectors = [p for p in module.parameters() if p.ndim < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer,
        LEARNING_RATE,
        total_steps=epochs * per_epoch,
        pct_start=WARMUP,
        cycle_momentum=False,
    )
    start = time.perf_counter()
    for epoch in range(1, epochs + 1):
        total = 0.0
        for batch in torch.split(torch.randperm(len(inputs), generator=generator), BATCH):
            logits = module(augment(inputs[batch], generator))
            loss = F.cross_entropy(logits, targets[batch], label_smoothing=LABEL_SMOOTHING)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            total += loss.item() * len(batch)
        if epoch % 5 == 0 or epoch in (1, epochs):
            seconds = time.perf_counter() - start
            mean_loss = total / len(inputs)
            print(f"epoch {epoch}/{epochs}  loss {mean_loss:.4f}  {seconds:.0f} s", flush=True)
    return module.half().float().eval()


@torch.inference_mode()
def accuracy(module: nn.Module, images: Images, labels: Labels) -> float:
    """Share of ``images`` (uint8, (N, 32, 32, 3)) whose largest logit is their label."""
    inputs = torch.from_numpy(digits_preprocessing().normalize(images))
    predicted = torch.cat([module(part).argmax(dim=-1) for part in torch.split(inputs, 256)])
    return float((predicted.numpy() == labels).mean())


def save(folder: Path, module: nn.Module, images: Images, labels: Labels, top1: float) -> None:
    """Write fp16 weights and the held-out images; an interruption leaves nothing half-made."""
    heldout = io.BytesIO()
    np.savez_compressed(heldout, images=images, labels=labels)
    files = {HELDOUT_FILE: heldout.getvalue(), WEIGHTS_FILE: _packed(module, len(labels), top1)}
    _write(folder, files)


def save_variant(
    folder: Path, variant: Variant, module: nn.Module, count: int, top1: float
) -> None:
    """Write a folder in timm's form: ``config.json`` and fp16 weights.

    Args:
        count: images held out.
        top1: the network's share of right answers to them.
    """
    config = json.dumps(variant.config(), indent=2) + "\n"
    _write(folder, {CONFIG: config.encode(), VARIANT_WEIGHTS: _packed(module, count, top1)})


def _packed(module: nn.Module, count: int, top1: float) -> bytes:
    from safetensors.torch import save as pack

    state = {name: tensor.half().contiguous() for name, tensor in module.state_dict().items()}
    facts = {
        "data": "scikit-learn load_digits, resized to 32x32",
        "seed": SEED,
        "heldout_top1": round(top1, 4),
        "heldout_images": count,
    }
    # One entry: safetensors writes several in an order that changes from run to run.
    packed: bytes = pack(state, {"mimiq": json.dumps(facts)})
    return packed


def _write(folder: Path, files: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, content in files.items():
            temporary[name].write_bytes(content)
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Train the embedded digits model.")
    parser.add_argument("--out", type=Path, default=FOLDER, help="folder to write into")
    parser.add_argument("--epochs", type=int, help=f"{EPOCHS}, or the variant's own")
    parser.add_argument("--variant", choices=VARIANTS, help="a network of another shape, into DIR")
    options = parser.parse_args(arguments)
    if options.variant and options.out == FOLDER:
        parser.error("a variant is no part of the package: say where with --out DIR")
    variant = VARIANTS.get(options.variant)
    try:
        images, labels = digits_images()
        chosen, heldout = split(labels)
        build = variant.build if variant else build_digits
        epochs = options.epochs
        if epochs is None:
            epochs = (variant and variant.epochs) or EPOCHS
        module = train(images[chosen], labels[chosen], epochs, SEED, build)
        top1 = accuracy(module, images[heldout], labels[heldout])
        print(f"held-out top-1 {top1:.2%} on {len(heldout)} images")
        if top1 < LEAST_ACCURACY:
            raise CheckFailed(
                f"Held-out top-1 is {top1:.2%}, below {LEAST_ACCURACY:.0%}; nothing was written.",
                "Train for more epochs.",
            )
        try:
            if variant:
                save_variant(options.out, variant, module, len(heldout), top1)
            else:
                save(options.out, module, images[heldout], labels[heldout], top1)
        except OSError as error:
            raise BadInput(
                f"{options.out} cannot be written: {error}", "Choose another folder with --out."
            ) from error
    except MimiqError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
