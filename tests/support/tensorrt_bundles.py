"""Bundles around hand-written graphs, for tests of engines in bundles."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tensorrt_graphs import Spec, transformer

from mimiq.config.precision import from_bits, parse_bits
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle
from mimiq.runtime.preprocessing import Preprocessing


def make_bundle(
    folder: Path, half: Spec | None = None, model: Spec | None = None, label: str = "w8a8"
) -> Bundle:
    """A bundle of ``model`` (int8 in fp32, unless given) and ``half`` as ``model.fp16.onnx``."""
    model = model or Spec(half=False)
    files: dict[str, Path] = {}
    for name, spec in (("model.onnx", model), ("model.fp16.onnx", half)):
        if spec is not None:
            files[name] = folder / f"source.{name}"
            files[name].write_bytes(transformer(spec).SerializeToString())
    shape = [3, model.image, model.image]
    manifest: dict[str, Any] = {
        "model": {"name": "by hand", "num_classes": model.classes, "untrained": True},
        "precision": from_bits(*parse_bits(label)).to_json(),
        "preprocessing": Preprocessing(image_size=model.image).to_json(),
        "inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", *shape]}],
        "outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", model.classes]}],
    }
    return write_bundle(folder / "bundle", files, manifest)
