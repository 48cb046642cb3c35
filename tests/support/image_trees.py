"""Folders of small grey images, a folder a class."""

from __future__ import annotations

from pathlib import Path

from PIL import Image
from runtime_models import SIZE


def save(path: Path, shade: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (SIZE, SIZE), (shade, shade, shade)).save(path)


def tree(root: Path, folders: list[str], each: int = 2) -> Path:
    for number, folder in enumerate(folders):
        for index in range(each):
            save(root / folder / f"{index}.png", 10 * number + index)
    return root
