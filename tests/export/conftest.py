"""Networks exported once a session, by precision."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from export_networks import METADATA, PRECISIONS, Exported, simulate, vit
from torch import nn

from mimiq.export import export_onnx


@pytest.fixture(scope="session")
def digits() -> tuple[nn.Module, torch.Tensor]:
    """The embedded network and 64 of its held-out images, normalised."""
    from mimiq.models import load_model
    from mimiq.models.digits import digits_heldout

    model = load_model("digits")
    pixels, _ = digits_heldout()
    return model.module, torch.from_numpy(model.preprocessing.normalize(pixels[:64]))


@pytest.fixture(scope="session")
def exported(own_cache: Path) -> Callable[[str], Exported]:
    """A ViT of two blocks in one of :data:`PRECISIONS`, exported.

    Once for all processes of a session, which therefore leave the graphs as they are.
    """
    from filelock import FileLock

    made: dict[str, Exported] = {}
    folder = own_cache.with_name("exported")
    folder.mkdir(exist_ok=True)
    network = vit(depth=2)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def export(label: str) -> Exported:
        if label not in made:
            module = simulate(network, PRECISIONS[label], images[:16])
            path = folder / f"{label}.onnx"
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    export_onnx(module, 32, path, metadata=METADATA)
            made[label] = Exported(module, path, images, PRECISIONS[label])
        return made[label]

    return export
