"""Every tensor of a weights file, whatever its format, without executing what the file holds."""

from __future__ import annotations

import hashlib
import string
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from mimiq.errors import BadInput
from mimiq.files import exhausted
from mimiq.models.archives import damaged_entry
from mimiq.models.pickles import Opaque, read_pickle
from mimiq.models.shards import Tensors as Tensors
from mimiq.models.shards import read_shards

CONTAINER = "/"  # ends the name of a mapping inside the file, as in ``model_ema/module.norm.bias``
_DEPTH = 4  # of mappings in one another
_ARCHIVE = "Unpack it, and give the file inside."
_ORIGINAL = "Give the network's original checkpoint."
# Where in a file, which bytes, and what it is; none of these holds a state dict to be read here.
_FOREIGN = (
    (0, b"\x89HDF", "an HDF5 file, as Keras writes them", "Convert it to safetensors first."),
    (0, b"GGUF", "a GGUF file", _ORIGINAL),
    (0, b"ftrt", "an engine of TensorRT", _ORIGINAL),
    (4, b"TFL3", "a network of TensorFlow Lite", _ORIGINAL),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file", "Fetch it: git lfs pull."),
    (0, b"<", "a web page, not a checkpoint", "Download the file itself."),
    (0, b"\x89PNG", "an image, not a checkpoint", "Check the path."),
    (0, b"\xff\xd8\xff", "an image, not a checkpoint", "Check the path."),
    (0, b"%PDF", "a PDF document, not a checkpoint", "Check the path."),
    (0, b"\x7fELF", "a program or library, which is code", _ORIGINAL),
    (0, b"\x93NUMPY", "a single NumPy array", "Give the checkpoint of a whole network."),
    (0, b"\x08", "an ONNX graph or another protocol buffer", "Give the network's checkpoint."),
    (0, b"\x1f\x8b", "a gzip archive", _ARCHIVE),
    (257, b"ustar", "a tar archive", _ARCHIVE),
    (0, b"BZh", "a bzip2 archive", _ARCHIVE),
    (0, b"\xfd7zXZ", "an xz archive", _ARCHIVE),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard archive", _ARCHIVE),
    (0, b"7z\xbc\xaf", "a 7-Zip archive", _ARCHIVE),
    (0, b"Rar!", "a RAR archive", _ARCHIVE),
)


def sha256_state(state: Mapping[str, torch.Tensor]) -> str:
    """Hex SHA-256 over names, dtypes, shapes and values: the same for every file format."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def read_tensors(path: Path) -> Tensors:
    """All tensors of a file, by name; those in a mapping inside it as ``mapping/name``.

    Reads safetensors, one file or an index of shards (``*.index.json``), PyTorch's own format and
    ``.npz``, each known by its content and not by its suffix.

    Raises:
        BadInput: the file is absent, truncated, of another format, or holds no tensors.
        EnvironmentLacks: there is no memory for it, or too many files are open.
    """
    if path.is_dir():
        raise _folder(path)
    if not path.is_file():
        found = "is no file" if path.exists() else "does not exist"
        raise BadInput(f"Weights file {path} {found}.", "Check the path given to `weights`.")
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"Weights file {path} cannot be read: {error.strerror}.", "Check its permissions."
        ) from error
    if not head:
        raise BadInput(f"{path} is empty.", "Download or copy it again.")
    if head[8:9] == b"{" or path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix == ".json" or head[:1] == b"{":
        return read_shards(path, read_tensors)
    for start, magic, what, next_step in _FOREIGN:
        if head.startswith(magic, start):
            raise BadInput(f"{path} is {what}.", next_step)
    names = _names_in_zip(path) if head[:2] == b"PK" else None
    if names is not None:
        if any(name.endswith(".npy") for name in names):
            return _read_npz(path)
        if any(name.endswith("/constants.pkl") for name in names):
            raise BadInput(
                f"{path} is a TorchScript program, which is code.",
                "Load it where it was made and save its weights: "
                "torch.save(torch.jit.load(...).state_dict(), 'weights.pth').",
            )
        if any(name.endswith("models/model.json") for name in names):
            raise BadInput(
                f"{path} is a program of torch.export, which is code.",
                "Give the state dict of the network that it was exported from.",
            )
        if any(name.endswith("weights.h5") for name in names):
            raise BadInput(
                f"{path} is a network of Keras.", "Convert its weights to safetensors first."
            )
        if not any(name.endswith("data.pkl") for name in names):
            raise BadInput(f"{path} is a zip archive without a checkpoint.", "Unpack it first.")
    if path.suffix == ".msgpack":
        raise BadInput(
            f"{path} is a Flax file.", "Save the network as safetensors: from_flax=True loads it."
        )
    if head.isascii() and not set(head) - set(string.printable.encode()):
        raise BadInput(f"{path} is a text file, not a checkpoint.", "Check the path.")
    raw = read_pickle(path)
    tensors = dict(_flattened(raw, "", _DEPTH))
    empty = [name for name, tensor in tensors.items() if tensor.is_meta]
    if empty:
        whose = "" if len(empty) == len(tensors) else f" ({empty[0]!r}, {len(empty)} in all)"
        raise BadInput(
            f"{path} holds names and shapes without values{whose}, saved from the meta device.",
            "Save the network after its weights were loaded.",
        )
    for name, tensor in tensors.items():
        if tensor.is_nested:
            raise BadInput(
                f"{path}: {name} is a nested tensor, and no parameter of a network.",
                "Save the network's state dict.",
            )
    if tensors:
        return tensors
    if isinstance(raw, Opaque) or _holds_opaque(raw):
        raise BadInput(
            f"{path} cannot be loaded as plain tensors: it holds the network as a Python object.",
            "mimiq never executes what a file holds. Load it where it was made, and save "
            "model.state_dict().",
        )
    raise BadInput(
        f"{path} holds no state dict: there is no tensor in it.",
        "Save the network with torch.save(model.state_dict(), …) or as safetensors.",
    )


def load_into(module: nn.Module, state: Mapping[str, torch.Tensor], path: Path, name: str) -> None:
    """Copy ``state`` into ``module``, every key accounted for; fp16, bf16 and fp64 become fp32.

    Raises:
        BadInput: naming the first missing, unexpected, misshapen, integer or non-finite parameter.
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
    values = {}
    for key, tensor in state.items():
        if tensor.shape != expected[key].shape:
            raise BadInput(
                f"{path}: {key} has shape {tuple(tensor.shape)}, "
                f"{name} expects {tuple(expected[key].shape)}.",
                "Name the right architecture, or pass `image_size` / `num_classes`.",
            )
        values[key] = _in_float32(key, tensor, path)
    module.load_state_dict(values)


def _in_float32(key: str, tensor: torch.Tensor, path: Path) -> torch.Tensor:
    # Float8 counts as floating point, and without its scales it is as wrong as an integer.
    if tensor.is_complex():
        raise BadInput(f"{path}: {key} holds complex numbers.", "Use another checkpoint.")
    if tensor.is_quantized or not tensor.is_floating_point() or tensor.element_size() == 1:
        kind = str(tensor.dtype).removeprefix("torch.")
        raise BadInput(
            f"{path}: {key} holds {kind} values, as a network that is already quantised has.",
            "Give the checkpoint in floating point that it was made from.",
        )
    values = tensor.float()
    if not bool(torch.isfinite(values).all()):
        raise BadInput(
            f"{path}: {key} holds NaN or infinity, or more than float32 can.",
            "Use another checkpoint.",
        )
    return values


def _folder(path: Path) -> BadInput:
    """The error for a folder given as a weights file."""
    if (path / ".metadata").is_file():
        return BadInput(
            f"{path} is a distributed checkpoint of PyTorch's, in pieces.",
            "Make one file of it: python -m torch.distributed.checkpoint.format_utils "
            f"dcp_to_torch {path} weights.pth",
        )
    suffixes = (".safetensors", ".bin", ".pth", ".pt", ".ckpt")
    inside = sorted(file.name for file in path.iterdir() if file.suffix in suffixes)
    return BadInput(
        f"{path} is a folder, and no weights file.",
        f"Give the file inside: {', '.join(inside[:3])}." if inside else "Check the path.",
    )


def _read_safetensors(path: Path) -> Tensors:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: Tensors = load_file(path)
    except (SafetensorError, ValueError, OSError, RuntimeError) as error:  # the last: PyTorch's
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} is not a readable safetensors file: {error}", "Download or copy it again."
        ) from error
    if not tensors:
        raise BadInput(f"{path} holds no tensors.", "Give the checkpoint of a whole network.")
    return tensors


def _names_in_zip(path: Path) -> list[str] | None:
    """The names in a zip archive that is whole; None where it has no directory."""
    try:
        if not zipfile.is_zipfile(path):
            return None
        with zipfile.ZipFile(path) as archive:
            names, damaged = archive.namelist(), damaged_entry(archive)
    except Exception as error:  # of damage zipfile raises more than it says
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} is a damaged zip archive: {error}.", "Download or copy it again."
        ) from error
    if damaged is not None:
        raise BadInput(
            f"{path} is damaged: {damaged} in it is not as its checksum says.",
            "Download or copy it again.",
        )
    return names


def _read_npz(path: Path) -> Tensors:
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except Exception as error:  # NumPy, zipfile and zlib each raise their own of damage
        raise exhausted(error, f"{path} cannot be read") or BadInput(
            f"{path} is not a readable .npz file: {error}", "Download or copy it again."
        ) from error
    return {name: _tensor(array) for name, array in arrays.items() if _numeric(array)}


def _flattened(raw: Any, prefix: str, depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(raw, torch.Tensor):
        tensor = raw.detach()
        dense = tensor.is_nested or tensor.layout == torch.strided
        yield prefix.removesuffix(CONTAINER), tensor if dense else tensor.to_dense()
    elif isinstance(raw, np.ndarray) and _numeric(raw):
        yield prefix.removesuffix(CONTAINER), _tensor(raw)
    elif isinstance(raw, Mapping) and depth:
        for key, value in raw.items():
            yield from _flattened(value, f"{prefix}{key}{CONTAINER}", depth - 1)
    elif isinstance(raw, list | tuple) and not isinstance(raw, Opaque) and depth:
        for index, value in enumerate(raw):
            yield from _flattened(value, f"{prefix}{index}{CONTAINER}", depth - 1)


def _tensor(array: np.ndarray[Any, Any]) -> torch.Tensor:
    """PyTorch has neither the other order of bytes nor NumPy's long double."""
    kept = array.astype(np.float64) if array.dtype == np.longdouble else array
    return torch.from_numpy(kept.astype(kept.dtype.newbyteorder("="), copy=False))


def _numeric(array: Any) -> bool:
    return isinstance(array, np.ndarray) and array.dtype.kind in "fiub"


def _holds_opaque(raw: Any) -> bool:
    return isinstance(raw, Mapping) and any(isinstance(value, Opaque) for value in raw.values())
