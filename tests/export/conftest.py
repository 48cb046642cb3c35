"""Networks exported once a session, by precision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from export_networks import simulate, vit
from torch import nn

from mimiq.export import export_onnx
from mimiq.precision import FP32, Precision, from_bits, int4, int8, weight_only

PRECISIONS = {
    "fp32": FP32,
    "w8a8": int8(),
    "w4a8": int4(),
    "w4a16-b32": weight_only(4, 32),
    "w4a16": from_bits(4, None),
    "w4a4": from_bits(4, 4),
}
METADATA = {"model": "digits", "precision": "see the name"}


@dataclass(frozen=True)
class Exported:
    """A simulated network and its graph."""

    module: nn.Module
    path: Path
    images: torch.Tensor
    precision: Precision


@pytest.fixture(scope="session")
def digits() -> tuple[nn.Module, torch.Tensor]:
    """The embedded network and 64 of its held-out images, normalised."""
    from mimiq.models import load_model
    from mimiq.models.digits import digits_heldout

    model = load_model("digits")
    pixels, _ = digits_heldout()
    return model.module, torch.from_numpy(model.preprocessing.normalize(pixels[:64]))


@pytest.fixture(scope="session")
def exported(
    digits: tuple[nn.Module, torch.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Exported]:
    """The embedded network in one of :data:`PRECISIONS`, exported."""
    made: dict[str, Exported] = {}
    folder = tmp_path_factory.mktemp("exported")

    def export(label: str) -> Exported:
        if label not in made:
            network, images = digits
            module = simulate(network, PRECISIONS[label], images[:16])
            path = export_onnx(module, 32, folder / f"{label}.onnx", metadata=METADATA)
            made[label] = Exported(module, path, images, PRECISIONS[label])
        return made[label]

    return export


@pytest.fixture(scope="session")
def exported_vit(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """An untrained ViT of the given sizes, W8A8, exported; for rules on sizes."""
    folder = tmp_path_factory.mktemp("exported_vit")

    def export(**sizes: int) -> Path:
        path = folder / ("-".join(map(str, sizes.values())) + ".onnx")
        if not path.exists():
            image = sizes.get("image", 32)
            module = simulate(vit(**sizes), int8(), torch.randn(2, 3, image, image))
            export_onnx(module, image, path)
        return path

    return export
