"""Compile a network that is in memory, without one real image: from an nn.Module to a bundle.

    python examples/compile_in_memory.py                      # a small untrained ViT of timm's
    python examples/compile_in_memory.py vit_tiny_patch16_224 # one of timm's own, downloaded

Your own network takes its place in ``network_of``: timm's, transformers' or torchvision's class
with your weights in it, perhaps inside a LightningModule, DataParallel or torch.compile.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from torch import nn

import mimiq


def network_of(name: str | None) -> tuple[nn.Module, mimiq.Preprocessing | None]:
    """A network, and how images come to it where it does not say so itself."""
    if name is not None:
        return timm.create_model(name, pretrained=True), None
    torch.manual_seed(0)
    network = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=3
    )
    return network, mimiq.Preprocessing(
        image_size=32, crop_pct=1.0, mean=(0.5,) * 3, std=(0.5,) * 3
    )


def tell(stage: str, done: int, total: int | None, said: str) -> None:
    """Called at every step of the compilation: the place for a progress bar of one's own."""
    if done == total:
        print(f"{stage}: {said}" if said else stage)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Compile a network that is in memory.")
    parser.add_argument(
        "name", nargs="?", help="a name of timm's; by default a small untrained ViT"
    )
    parser.add_argument("--precision", default="int8", help="int8, int4, int4-weight-only or wXaY")
    parser.add_argument("--out", type=Path, default=Path("in-memory.mimiq"))
    parser.add_argument("--recipe", help="tiny for a quick look, as without a name")
    parser.add_argument("--images", type=int, help="how many are synthesised")
    parser.add_argument("--steps", type=int, help="how long the network is distilled")
    given = parser.parse_args(arguments)

    network, preprocessing = network_of(given.name)
    bundle = mimiq.compile(
        network,
        given.precision,
        preprocessing=preprocessing,
        out=given.out,
        recipe=given.recipe or ("tiny" if given.name is None else None),
        images=given.images,
        steps=given.steps,
        batches=(1,),
        overwrite=True,
        progress=tell,
    )
    print(f"{bundle.path}: {bundle.precision_label}, {bundle.answer}")

    # Any images will do here; of files: bundle.preprocessing.load(["image.png"]).
    images = np.random.default_rng(0).standard_normal((2, *bundle.preprocessing.input_shape))
    with mimiq.open_bundle(bundle) as session:
        quantised = session.run(images.astype(np.float32))
    with torch.inference_mode():
        original = network.eval()(torch.from_numpy(images).float()).numpy()
    error = np.square(quantised - original).mean() / original.var()
    print(f"on random images the answers differ by {error:.2%} of their variance")


if __name__ == "__main__":
    main()
