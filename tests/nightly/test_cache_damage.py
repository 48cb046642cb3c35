"""A compilation's own cache, damaged in every kind of way: each time the same bundle, with a note.

pytest -n 0 --nightly tests/nightly/test_cache_damage.py
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from compilations import begun, ended, graphs_of, load_libraries
from figures import record

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="compiles in forked children"),
]


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def _flip(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 4
    file.write_bytes(content)


def _empty(file: Path) -> None:
    file.write_bytes(b"")


# Stage, file, damage: those that were tried by hand, and then were dead ends or broken bundles.
KINDS: list[tuple[str, str, Callable[[Path], object]]] = [
    ("graphs", "model.onnx", _cut),
    ("graphs", "model.onnx", _flip),
    ("graphs", "model.onnx", Path.unlink),
    ("graphs", "model.cpu.onnx", _flip),
    ("graphs", "model.fp16.onnx", _flip),
    ("graphs", "model.openvino.onnx", _empty),
    ("graphs", "contents.json", _cut),
    ("fp32", "model.onnx", _cut),
    ("fp32", "model.onnx", _flip),
    ("tuned", "quantizers.json", _empty),
    ("tuned", "tuning.json", _empty),
    ("tuned", "values.safetensors", _flip),
    ("fitted", "values.safetensors", _cut),
    ("calibration", "set/manifest.json", _empty),
    ("calibration", "set/batch-00000.npz", _cut),
    ("calibration", "set/batch-00000.npz", _flip),
]


def test_every_kind_is_remade(tmp_path: Path) -> None:
    load_libraries()
    out, cache = tmp_path / "digits.mimiq", tmp_path / "cache"
    assert ended(begun(out, cache))
    wanted = graphs_of(out)
    remade = []
    for stage, name, damage in KINDS:
        (entry,) = cache.glob(f"{stage}-*")
        damage(entry / name)
        if stage == "fitted":  # else nothing asks for it
            shutil.rmtree(next(cache.glob("tuned-*")))
        assert ended(begun(out, cache))
        assert graphs_of(out) == wanted, (stage, name)
        note = f"{entry.name} in the cache is damaged and is made again"
        remade.append(note in (tmp_path / "said").read_text())
        print(f"{stage}/{name}, {damage.__name__}: remade", flush=True)
    record(
        "cache",
        "pytest -n 0 --nightly tests/nightly/test_cache_damage.py",
        {"kinds": len(KINDS), "remade": sum(remade)},
    )
    assert all(remade)
