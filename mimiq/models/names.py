"""The names of networks, known without importing torch or timm: a mistyped one costs no wait."""

from __future__ import annotations

import difflib
import functools
import importlib.util
import re
from pathlib import Path

from mimiq.errors import BadInput

EMBEDDED = "digits"

SHORT_NAMES = {
    "deit_t": "deit_tiny_patch16_224",
    "deit_s": "deit_small_patch16_224",
    "deit_b": "deit_base_patch16_224",
    "deit_t_distilled": "deit_tiny_distilled_patch16_224",
    "deit_s_distilled": "deit_small_distilled_patch16_224",
    "deit_b_distilled": "deit_base_distilled_patch16_224",
    # Trained on ImageNet-21k and fine-tuned on 1k with AugReg: the weights of the published tables.
    "vit_t": "vit_tiny_patch16_224",
    "vit_s": "vit_small_patch16_224",
    "vit_b": "vit_base_patch16_224",
}

TORCHVISION = {
    "vit_b_16": "vit_base_patch16_224",
    "vit_b_32": "vit_base_patch32_224",
    "vit_l_16": "vit_large_patch16_224",
    "vit_l_32": "vit_large_patch32_224",
    "vit_h_14": "vit_huge_patch14_224",
    "swin_t": "swin_tiny_patch4_window7_224",
    "swin_s": "swin_small_patch4_window7_224",
    "swin_b": "swin_base_patch4_window7_224",
    "swin_v2_t": "swinv2_tiny_window8_256",
    "swin_v2_s": "swinv2_small_window8_256",
    "swin_v2_b": "swinv2_base_window8_256",
}
"""torchvision's names, and timm's architecture of the same shape."""

# timm's files whose networks the families here describe.
_DESCRIBED = (
    "beit",
    "cait",
    "deit",
    "eva",
    "swin_transformer",
    "swin_transformer_v2",
    "vision_transformer",
    "vision_transformer_hybrid",
    "vision_transformer_relpos",
    "vitamin",
)
_REGISTERED = re.compile(r"^@register_model\s*\ndef (\w+)\(", re.MULTILINE)
_RENAMED = re.compile(r"^register_model_deprecations\(.*?\{(.*?)^\}", re.MULTILINE | re.DOTALL)


@functools.cache
def timm_names() -> dict[str, str]:
    """timm's architectures, with the file of ``timm.models`` that builds each; read from its text.

    Former names of renamed ones are there too, without a file. Empty where timm is not installed.
    """
    found = importlib.util.find_spec("timm")
    folders = found.submodule_search_locations if found is not None else None
    names: dict[str, str] = {}
    for file in sorted(Path(*folders or [""], "models").glob("*.py")) if folders else ():
        text = file.read_text(encoding="utf-8")
        names |= dict.fromkeys(_REGISTERED.findall(text), file.stem)
        for block in _RENAMED.findall(text):
            names |= dict.fromkeys(re.findall(r"'(\w+)':", block), "")
    return names


def described_names() -> list[str]:
    """timm's architectures that a family here describes, but for single exceptions of a file."""
    return sorted(name for name, file in timm_names().items() if file in _DESCRIBED)


def architecture_of(name: str) -> str:
    """timm's name, its tag included, for a short name or one with a prefix for the hub."""
    bare = name.removeprefix("hf-hub:").removeprefix("hf_hub:").removeprefix("timm/")
    return SHORT_NAMES.get(name, bare)


def check_name(name: str) -> None:
    """Refuse a name that can mean nothing: no network, no path, and no repository by its form.

    Raises:
        BadInput: for a name, with those that resemble it.
    """
    if name == EMBEDDED or name in TORCHVISION or Path(name).exists():
        return
    known = timm_names()
    if not known or architecture_of(name).split(".")[0] in known:
        return
    if name.startswith((".", "/")):
        raise BadInput(f"Folder {name} does not exist.", "Check the path.")
    if not re.search(r"[/\\:]", name):
        raise unknown(name)


def unknown(name: str) -> BadInput:
    """The error that nothing has this name, with those that resemble it."""
    known = [*SHORT_NAMES, *TORCHVISION, EMBEDDED, *described_names()]
    close = difflib.get_close_matches(name, known, n=3)
    hint = f"Did you mean {' or '.join(close)}?" if close else "Run: mimiq models"
    return BadInput(f"Model {name!r} is unknown.", hint)
