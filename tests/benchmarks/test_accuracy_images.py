"""The images of benchmarks/accuracy.py: pooled, spread, and full precision run once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from accuracy_images import Reference, content_hash, pooled, spread
from PIL import Image

from mimiq.cache import Cache
from mimiq.models import load_model
from mimiq.models.digits import digits_heldout
from mimiq.progress import SILENT
from mimiq.runtime.evaluation.datasets import ImageFiles
from mimiq.runtime.preprocessing import FloatArray
from mimiq.runtime.session import Images


def folder(root: Path, name: str, start: int, count: int) -> Path:
    """Some of the held-out digits as files with a listing."""
    images, labels = digits_heldout()
    (root / name).mkdir()
    lines = []
    for index in range(start, start + count):
        Image.fromarray(images[index]).save(root / name / f"{index}.png")
        lines.append(f"{index}.png {labels[index]}")
    (root / name / "val.txt").write_text("\n".join(lines))
    return root / name


class Answers:
    """A session that answers with what it is told, and counts its images."""

    backend, input_shape, num_classes = "none", (3, 32, 32), 10

    def __init__(self, logits: FloatArray) -> None:
        self.logits, self.done = logits, 0

    def run(self, images: Images) -> FloatArray:
        self.done += len(images)
        return self.logits[self.done - len(images) : self.done]

    def close(self) -> None: ...

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *exception: object) -> None: ...


def test_folders_are_pooled_in_order(tmp_path: Path) -> None:
    _, labels = digits_heldout()
    sources = [str(folder(tmp_path, "a", 0, 5)), str(folder(tmp_path, "b", 5, 7))]
    images = pooled(sources, 10)
    assert isinstance(images, ImageFiles)
    assert images.labels == tuple(labels[:12])
    few = spread(images, 4)
    assert few.labels == tuple(labels[[0, 3, 6, 9]])
    assert len(spread(images, 100)) == 12


def test_the_hash_is_of_the_images_not_of_their_place(tmp_path: Path) -> None:
    first = pooled([str(folder(tmp_path, "a", 0, 5))], 10)
    same = pooled([str(folder(tmp_path, "b", 0, 5))], 10)
    other = pooled([str(folder(tmp_path, "c", 1, 5))], 10)
    assert content_hash(first) == content_hash(same)
    assert content_hash(first) != content_hash(other)


def test_full_precision_runs_once_and_is_compared_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model("digits")
    images, labels = digits_heldout()
    with torch.inference_mode():
        expected = model.module(torch.from_numpy(model.preprocessing.normalize(images))).numpy()
    reference = Reference(model, pooled(["digits"], 10), Cache(tmp_path), SILENT)
    np.testing.assert_allclose(reference.logits, expected, atol=1e-4)

    monkeypatch.setattr("accuracy_images.OnnxRuntimeSession", None)  # from the cache alone
    again = Reference(model, pooled(["digits"], 10), Cache(tmp_path), SILENT)
    changed = again.logits.copy()
    right = np.flatnonzero(again.logits.argmax(1) == labels)
    wrong = np.flatnonzero(again.logits.argmax(1) != labels)
    changed[right[3]] = -changed[right[3]]
    changed[wrong[1]] = np.eye(10, dtype=np.float32)[labels[wrong[1]]]
    judged = again.judge(Answers(changed), SILENT)
    assert judged.lost.tolist() == [right[3]]
    assert judged.gained.tolist() == [wrong[1]]
    assert (judged.comparison.only_reference, judged.comparison.only_model) == (1, 1)
    assert judged.comparison.count == len(labels)
