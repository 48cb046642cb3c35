"""What tests of packed models share: a labelled bundle, images, and Triton's own schema."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import pytest

from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import write_bundle


def parsed(text: str) -> Any:
    """The configuration by Triton's own schema."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    pytest.importorskip("tritonclient.grpc", reason="tritonclient reads the schema")
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(text, model_config_pb2.ModelConfig())


def config_at(folder: Path) -> Any:
    return parsed((folder / "config.pbtxt").read_text(encoding="utf-8"))


def labelled(plain: Bundle, first: str = 'a "tench", größer') -> Bundle:
    manifest = {k: v for k, v in plain.manifest.items() if k not in ("files", "manifest_sha256")}
    labels = [first, *(f"class {index}" for index in range(1, plain.num_classes))]
    out = plain.path.with_name(f"labelled-{uuid4().hex}")
    return write_bundle(out, {"model.onnx": plain.model_path}, manifest, labels=labels)


def images_for(bundle: Bundle, count: int = 5) -> np.ndarray[Any, Any]:
    size = bundle.preprocessing.image_size
    return np.random.default_rng(1).integers(0, 256, (count, size, size, 3), dtype=np.uint8)
