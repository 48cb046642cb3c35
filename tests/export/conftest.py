"""Networks exported once a session, by precision."""

from __future__ import annotations

from collections.abc import Callable

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
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Exported]:
    """A ViT of two blocks in one of :data:`PRECISIONS`, exported."""
    made: dict[str, Exported] = {}
    folder = tmp_path_factory.mktemp("exported")
    network = vit(depth=2)
    images = torch.randn(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))

    def export(label: str) -> Exported:
        if label not in made:
            module = simulate(network, PRECISIONS[label], images[:16])
            path = export_onnx(module, 32, folder / f"{label}.onnx", metadata=METADATA)
            made[label] = Exported(module, path, images, PRECISIONS[label])
        return made[label]

    return export
