"""A tuned quantised network on disk: safetensors for its values, JSON for its quantisers' grids."""

from __future__ import annotations

import copy
import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

from torch import nn

from mimiq.config.precision import Precision
from mimiq.errors import BadInput
from mimiq.files import exhausted
from mimiq.models import LoadedModel
from mimiq.quantize.fake_quant import Grid, Quantizer
from mimiq.quantize.insert import QuantizedModel
from mimiq.quantize.layers import QuantConv2d, QuantLinear, quant_layers

VALUES, QUANTIZERS = "values.safetensors", "quantizers.json"


def save_quantized(quantized: QuantizedModel, folder: Path) -> None:
    """Write the network into ``folder``, which exists."""
    from safetensors.torch import save_file

    values = {name: value.contiguous() for name, value in quantized.module.state_dict().items()}
    save_file(values, folder / VALUES)
    description = {
        "precision": quantized.precision.to_json(),
        "weights_sha256": quantized.model.weights_hash,
        "quantizers": {
            name: {"grid": astuple(part.grid), "axis": part.axis, "block_size": part.block_size}
            for name, part in quantized.module.named_modules()
            if isinstance(part, Quantizer)
        },
        "outliers": {
            name: list(layer.outliers)
            for name, layer in quant_layers(quantized.module).items()
            if isinstance(layer, QuantLinear) and layer.outliers
        },
    }
    (folder / QUANTIZERS).write_text(json.dumps(description, indent=1))


def load_quantized(model: LoadedModel, folder: Path) -> QuantizedModel:
    """The network that :func:`save_quantized` wrote, on the CPU, frozen.

    Raises:
        BadInput: when the folder holds none, or one made from other weights than ``model``'s.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        description: dict[str, Any] = json.loads((folder / QUANTIZERS).read_text())
        values = load_file(folder / VALUES)
    except (OSError, ValueError, SafetensorError) as error:
        raise exhausted(error, f"{folder} cannot be read") or BadInput(
            f"{folder} holds no readable quantised network: {error}", "Run mimiq distill again."
        ) from error
    if description["weights_sha256"] != model.weights_hash:
        raise BadInput(
            f"{folder} was made from other weights than those of {model.name}.",
            "Give the model and the `weights` it was distilled from.",
        )
    module = copy.deepcopy(model.module)
    for name, quantizer in description["quantizers"].items():
        parent, _, point = name.rpartition(".")
        layer = module.get_submodule(parent)
        if point in ("weight_quantizer", "input_quantizer"):
            _swap(module, parent, layer, tuple(description.get("outliers", {}).get(parent, ())))
        scale = values[f"{name}.log_scale"].exp()
        grid = Grid(*quantizer["grid"])
        module.set_submodule(
            name, Quantizer(scale, grid, quantizer["axis"], quantizer["block_size"])
        )
    module.load_state_dict(values)
    module.requires_grad_(False)
    return QuantizedModel(module, model, Precision.from_json(description["precision"]))


def _swap(module: nn.Module, name: str, layer: nn.Module, outliers: tuple[int, ...]) -> None:
    if isinstance(layer, nn.Linear):
        module.set_submodule(name, QuantLinear(layer, nn.Identity(), outliers))
    elif isinstance(layer, nn.Conv2d):
        module.set_submodule(name, QuantConv2d(layer, nn.Identity()))
