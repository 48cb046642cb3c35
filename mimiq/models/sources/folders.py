"""Folders and hub repositories that hold a network: which library wrote them, and their weights."""

from __future__ import annotations

import logging
from pathlib import Path

from mimiq.errors import BadInput
from mimiq.libraries import hushed
from mimiq.models import checkpoint
from mimiq.models.sources import timm
from mimiq.models.sources.original import Original, Request
from mimiq.models.sources.transformers import network

CONFIG = "config.json"
_WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "diffusion_pytorch_model.safetensors",
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
_FOREIGN = ("tf_model.h5", "flax_model.msgpack")
_SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")


def load(request: Request, folder: Path, file: Path | None = None) -> Original:
    """The network in a folder of transformers or timm.

    Args:
        request: what the user asked for.
        folder: with a ``config.json``.
        file: its weights, where they are not those of ``request`` or of the usual names.

    Raises:
        BadInput: the folder holds no network, or is incomplete.
        UnsupportedModel: a network of no family described here.
    """
    if (folder / "manifest.json").is_file() and not (folder / CONFIG).is_file():
        raise BadInput(
            f"{folder} is a compiled bundle, not a network.",
            "Give the network that it was compiled from.",
        )
    if (folder / "adapter_config.json").is_file() and not request.weights:
        raise BadInput(
            f"{folder} holds adapters (LoRA or another kind of PEFT) without their network.",
            "Merge them into the network (merge_and_unload), and save the whole of it.",
        )
    runs = sorted(path.parent.name for path in folder.glob(f"*/{CONFIG}"))
    if runs and not (folder / CONFIG).is_file():
        raise BadInput(
            f"{folder} has no {CONFIG}, but folders inside have.",
            f"Give one of them: {', '.join(str(folder / name) for name in runs[:3])}.",
        )
    if (folder / ".metadata").is_file():
        checkpoint.read_tensors(folder)  # which says what it is
    if not (folder / CONFIG).is_file():
        raise BadInput(
            f"{folder} has no {CONFIG}, so that it is no network's folder.",
            "Give a folder that save_pretrained or timm wrote, or the name of an architecture with "
            "`weights`.",
        )
    if request.untrained:
        raise BadInput(
            f"{folder} is a trained network, and `untrained` asks for random weights.",
            "Leave `untrained` out, or give the name of an architecture.",
        )
    config = network.read_json(folder / CONFIG)
    weights = request.weights or file or weights_in(folder)
    if "architecture" in config:
        return timm.load(
            request,
            str(config["architecture"]),
            weights=weights,
            overlay=_pretrained(config),
            model_args=config.get("model_args") or {},
        )
    return network.load(request, folder, config, weights)


def weights_in(folder: Path) -> Path:
    """The weights file, or the index of its shards.

    Raises:
        BadInput: there is none, or there are several and none has a usual name.
    """
    for name in _WEIGHTS:
        if (folder / name).is_file():
            return folder / name
    found = sorted(path for path in folder.iterdir() if path.suffix in _SUFFIXES)
    if len(found) == 1:
        return found[0]
    foreign = [name for name in _FOREIGN if (folder / name).is_file()]
    if foreign and not found:
        raise BadInput(
            f"{folder} has weights of TensorFlow or Flax alone: {', '.join(foreign)}.",
            "Load it with transformers (from_tf=True or from_flax=True), and save it again.",
        )
    listed = f"{len(found)} weights files ({', '.join(path.name for path in found[:3])})"
    raise BadInput(
        f"{folder} has {listed if found else 'a config.json, but no weights'}.",
        "Say which with `weights`." if found else "Copy model.safetensors there too.",
    )


def download(name: str) -> Path:
    """The folder of a repository on Hugging Face's hub, from its cache where it is there.

    Raises:
        BadInput: it could not be downloaded.
    """
    from huggingface_hub import snapshot_download

    wanted = ["*.json", "*.safetensors"]
    try:
        with hushed("huggingface_hub", level=logging.CRITICAL):
            folder = Path(snapshot_download(name, allow_patterns=wanted))
            if not any(folder.glob("*.safetensors")):
                folder = Path(snapshot_download(name, allow_patterns=[*wanted, "*.bin"]))
    except Exception as error:  # the hub client's own, by version
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BadInput(
            f"{name} could not be downloaded from Hugging Face's hub: {reason}",
            "Connect to the network, or give the folder where you have it.",
        ) from error
    return folder


def _pretrained(config: dict[str, object]) -> dict[str, object]:
    """timm's preprocessing as the folder has it, which older ones write without nesting."""
    nested = config.get("pretrained_cfg")
    known = dict(nested) if isinstance(nested, dict) else dict(config)
    keys = (
        "mean",
        "std",
        "input_size",
        "crop_pct",
        "crop_mode",
        "interpolation",
        "fixed_input_size",
        "num_classes",
    )
    overlay = {key: known[key] for key in keys if known.get(key) is not None}
    names = config.get("label_names") or known.get("label_names")
    return overlay | ({"label_names": names} if isinstance(names, list) else {})
