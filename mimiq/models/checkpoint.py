"""Reading a state dict from a file without ever executing what the file holds."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mimiq.errors import BadInput

# Where training scripts put the weights inside a .pth, best first.
_NESTED = ("model_ema", "state_dict_ema", "model", "state_dict", "module")
_WRAPPER_PREFIXES = ("module.", "_orig_mod.", "model.")


def sha256_state(state: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and values: the same for every file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """The state dict in a ``.safetensors`` or ``.pth``/``.pt``/``.bin`` file, in fp32.

    Raises:
        BadInput: when the file is absent, truncated, needs code to load, or holds no state dict.
    """
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise BadInput(f"Weights file {path} {found}.", "Check the path given to --weights.")
    raw = _read_safetensors(path) if path.suffix == ".safetensors" else _read_pickle(path)
    state = _find_state_dict(raw)
    if not state:
        raise BadInput(
            f"{path} holds no state dict (looked at the top level and under {', '.join(_NESTED)}).",
            "Save the network with torch.save(model.state_dict(), …) or as safetensors.",
        )
    for prefix in _WRAPPER_PREFIXES:
        if all(name.startswith(prefix) for name in state):
            state = {name.removeprefix(prefix): tensor for name, tensor in state.items()}
    return {
        name: tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def load_into(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path, name: str) -> None:
    """Copy ``state`` into ``module``, every key accounted for.

    Raises:
        BadInput: naming the first missing, unexpected, misshapen or non-finite parameter.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    if missing or unexpected:
        first = f"lacks {missing[0]!r}" if missing else f"has an extra {unexpected[0]!r}"
        raise BadInput(
            f"{path} does not fit {name}: it {first} "
            f"({len(missing)} missing, {len(unexpected)} unexpected of {len(expected)}).",
            "Name the architecture that this checkpoint was trained with.",
        )
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise BadInput(
                f"{path}: {key} has shape {tuple(tensor.shape)}, "
                f"{name} expects {tuple(expected[key].shape)}.",
                "Name the right architecture, or pass --image-size / --num-classes.",
            )
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            raise BadInput(f"{path}: {key} holds NaN or infinity.", "Use another checkpoint.")
    module.load_state_dict(dict(state))


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Any] = load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise BadInput(
            f"{path} is not a readable safetensors file: {error}", "Download or copy it again."
        ) from error
    return tensors


def _read_pickle(path: Path) -> Any:
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    # PyTorch's own words advise to load it all the same, and to run what it holds.
    except pickle.UnpicklingError as error:
        raise BadInput(
            f"{path} cannot be loaded as plain tensors.",
            "It is truncated, or holds Python objects, which mimiq never executes: "
            "save model.state_dict() alone.",
        ) from error
    except (RuntimeError, EOFError, ValueError, OSError, KeyError) as error:
        raise BadInput(
            f"{path} is not a readable PyTorch checkpoint.",
            "It may be truncated: download or copy it again.",
        ) from error


def _find_state_dict(raw: Any) -> dict[str, torch.Tensor]:
    if not isinstance(raw, Mapping):
        return {}
    for key in _NESTED:
        if isinstance(raw.get(key), Mapping):
            return _find_state_dict(raw[key])
    return {str(key): value for key, value in raw.items() if isinstance(value, torch.Tensor)}
