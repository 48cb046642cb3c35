"""One output, whose sigmoid is a probability: what is measured of it, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

from mimiq.cli import compile_main, main
from mimiq.runtime.evaluation.accuracy import compare
from mimiq.runtime.evaluation.datasets import InMemoryImages
from mimiq.runtime.evaluation.held_out import cost
from mimiq.runtime.preprocessing import FloatArray, Preprocessing


def test_the_cost_is_of_the_probability_and_the_threshold() -> None:
    wanted = np.float32([[-4], [-0.1], [0.1], [4]])
    same = cost(wanted, wanted)
    assert (same.agreeing, same.believed, same.probability_difference) == (4, 0.0, 0.0)
    turned = cost(-wanted, wanted)
    assert turned.agreeing == 0
    assert turned.believed == pytest.approx(0.5 * (0.964 + 0.05), abs=0.01)
    assert turned.probability_difference == pytest.approx(turned.believed, abs=1e-6)


def test_labels_are_held_against_the_threshold() -> None:
    logits = np.float32([[-1], [2], [0.5], [-3]])
    labels = np.int64([0, 1, 0, 0])
    images = InMemoryImages(np.zeros((4, 8, 8, 3), np.uint8), labels, 2)

    def network(_: FloatArray) -> FloatArray:
        return logits

    def original(_: FloatArray) -> FloatArray:
        return logits + np.float32([[0], [0], [-1], [0]])

    found = compare(network, original, images, Preprocessing(8))
    assert (found.accuracy.correct, found.reference.correct, found.agreeing) == (3, 4, 3)
    moved = 1 / (1 + np.exp(-0.5)) - 1 / (1 + np.exp(0.5))
    assert found.probability_difference == pytest.approx(moved / 4, abs=1e-6)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    module = VisionTransformer(num_classes=1, **sizes)
    path = tmp_path_factory.mktemp("network") / "binary.safetensors"
    save_file(module.state_dict(), path)
    given = "embed_dim=64,depth=2,num_heads=2"
    return [
        *("deit_t", "--weights", str(path), "--image-size", "32"),
        *("--model-kwargs", given, "--recipe", "tiny", "--images", "16", "--no-bench"),
    ]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    generator = np.random.default_rng(0)
    for number in range(8):
        pixels = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        place = folder / str(number % 2)
        place.mkdir(exist_ok=True)
        Image.fromarray(pixels).resize((40, 40)).save(place / f"{number}.png")
    return folder


def compiled(network: list[str], out: Path, *more: str) -> Result:
    return CliRunner().invoke(
        compile_main, [*network, "--steps", "3", "--target", "ort", "-o", str(out), *more]
    )


def test_it_compiles_and_says_what_it_costs(
    network: list[str], labelled: Path, tmp_path: Path
) -> None:
    out = tmp_path / "binary.mimiq"
    answer = compiled(network, out, "--eval", str(labelled), "--max-drop", "50", "--json")
    assert answer.exit_code == 0, answer.output
    report = json.loads(answer.stdout)
    assert report["accuracy"]["count"] == 8
    assert 0 <= report["accuracy"]["probability_difference"] < 0.05
    kinds = report["heldout"]["kinds"].values()
    assert all(0 <= kind["probability_difference"] < 0.05 for kind in kinds)
    measured = CliRunner().invoke(main, ["eval", str(out), str(labelled), "--json"])
    assert measured.exit_code == 0, measured.stderr
    assert json.loads(measured.stdout)["accuracy"]["count"] == 8


def test_other_labels_are_refused(network: list[str], labelled: Path, tmp_path: Path) -> None:
    listing = "".join(f"{number % 2}/{number}.png 7\n" for number in range(8))
    (labelled / "val.txt").write_text(listing)
    try:
        answer = compiled(network, tmp_path / "other.mimiq", "--eval", str(labelled))
    finally:
        (labelled / "val.txt").unlink()
    assert answer.exit_code == 2
    assert "class 7 is out of range" in answer.stderr
