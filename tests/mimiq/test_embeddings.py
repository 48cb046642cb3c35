"""A network without a classifier, from synthesis to the bundle and its comparisons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from mimiq.cli import compile_main, main
from mimiq.distill.losses import embedding_loss
from mimiq.models import load_model
from mimiq.models.answers import divergence, label_loss, log_probabilities, same_answer
from mimiq.runtime import Bundle, open_bundle


def test_an_embedding_is_taught_in_direction_and_length() -> None:
    taught = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    assert float(embedding_loss(taught, taught)) == pytest.approx(0, abs=1e-6)
    assert float(embedding_loss(taught, 2 * taught)) == pytest.approx(1, abs=1e-5)
    assert float(embedding_loss(taught, -taught)) == pytest.approx(2, abs=1e-5)


def test_embeddings_diverge_by_their_relative_error_and_have_no_labels() -> None:
    wanted = torch.randn(6, 16, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(divergence(1.1 * wanted, wanted, "embedding"), torch.full((6,), 0.01))
    assert torch.allclose(same_answer(3 * wanted, wanted, "embedding"), torch.ones(6))
    assert float(label_loss(wanted, torch.full((6,), -1), "embedding")) == 0


def test_one_logit_is_worth_two_classes() -> None:
    logits = torch.tensor([[-2.0], [0.5], [3.0]])
    both = torch.cat([torch.zeros(3, 1), logits], 1)
    other = torch.tensor([[1.0], [0.4], [-3.0]])
    others = torch.cat([torch.zeros(3, 1), other], 1)
    assert torch.allclose(log_probabilities(logits).exp()[:, 1:], torch.sigmoid(logits))
    found = divergence(logits, other, "logits")
    assert torch.allclose(found, divergence(both, others, "logits"))
    assert float(found[2]) > 1
    assert same_answer(logits, other, "logits").tolist() == [0.0, 1.0, 0.0]
    labels = torch.tensor([0, 1, 1])
    wanted = nn.functional.binary_cross_entropy_with_logits(logits[:, 0], labels.float())
    assert float(label_loss(logits, labels, "logits")) == pytest.approx(float(wanted), abs=1e-6)


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images without labels, one of them in a folder below."""
    folder = tmp_path_factory.mktemp("photographs")
    (folder / "more").mkdir()
    generator = np.random.default_rng(0)
    for number in range(9):
        coarse = generator.integers(0, 256, (6, 6, 3), dtype=np.uint8)
        place = folder / "more" if number == 0 else folder
        Image.fromarray(coarse).resize((40, 36)).save(place / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The arguments that load a small ViT without a classifier, its values drawn at random."""
    from safetensors.torch import save_file

    torch.manual_seed(0)
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 64, "depth": 2, "num_heads": 2}
    module = VisionTransformer(num_classes=0, init_values=1.0, **sizes)
    path = tmp_path_factory.mktemp("network") / "extractor.safetensors"
    save_file(module.state_dict(), path)
    given = "embed_dim=64,depth=2,num_heads=2,patch_size=8"
    return [
        *("vit_small_patch14_dinov2", "--weights", str(path)),
        *("--image-size", "32", "--model-kwargs", given),
    ]


@pytest.fixture(scope="module")
def compiled(
    network: list[str], photographs: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Bundle, dict]:
    out = tmp_path_factory.mktemp("bundles") / "extractor.mimiq"
    answer = CliRunner().invoke(
        compile_main,
        [
            *network,
            *("--recipe", "tiny", "--images", "16", "--steps", "4", "--no-bench"),
            *("--eval", str(photographs), "--target", "ort", "--json", "-o", str(out)),
        ],
    )
    assert answer.exit_code == 0, answer.output
    return Bundle(out), json.loads(answer.stdout)


def test_the_report_speaks_of_cosines_alone(compiled: tuple[Bundle, dict]) -> None:
    _, report = compiled
    assert report["accuracy"] is None
    assert report["heldout"] is None
    near = report["similarity"]
    assert near["evaluation"]["count"] == 9
    assert 0.98 < near["evaluation"]["least"] <= near["evaluation"]["mean"] <= 1
    assert near["heldout"]["synthetic"]["count"] >= 2
    assert not any("top-1" in note for note in report["notes"])


def test_the_bundle_says_what_it_answers_with(compiled: tuple[Bundle, dict]) -> None:
    bundle, _ = compiled
    assert bundle.output == "embedding"
    assert (bundle.num_classes, bundle.width) == (0, 64)
    assert bundle.manifest["outputs"][0] == {
        "name": "embedding",
        "dtype": "float32",
        "shape": ["batch", 64],
    }


def test_a_session_gives_the_embeddings_of_the_original(
    compiled: tuple[Bundle, dict], network: list[str], photographs: Path
) -> None:
    bundle, _ = compiled
    images = bundle.preprocessing.load(sorted(photographs.glob("*.png")))
    original = load_model(
        network[0],
        weights=Path(network[2]),
        image_size=32,
        model_kwargs={"embed_dim": 64, "depth": 2, "num_heads": 2, "patch_size": 8},
    )
    with torch.inference_mode():
        wanted = original.module(torch.from_numpy(images)).numpy()
    with open_bundle(bundle, "ort") as session:
        found = session.run(images)
    assert found.shape == (8, 64)
    cosines = (found * wanted).sum(1)
    cosines /= np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
    assert cosines.min() > 0.98


def test_two_backends_are_compared_and_one_has_no_accuracy(
    compiled: tuple[Bundle, dict], photographs: Path
) -> None:
    bundle, _ = compiled
    arguments = ["eval", str(bundle.path), str(photographs), "--backend", "ort"]
    alone = CliRunner().invoke(main, arguments)
    assert alone.exit_code == 2
    assert "no accuracy of its own" in alone.stderr
    pair = CliRunner().invoke(main, [*arguments, "--against", "ort", "--json"])
    assert pair.exit_code == 0, pair.stderr
    assert json.loads(pair.stdout)["similarity"]["least"] == pytest.approx(1)


def test_the_page_and_inspect_name_the_embedding(
    compiled: tuple[Bundle, dict], tmp_path: Path
) -> None:
    bundle, _ = compiled
    page = tmp_path / "page.html"
    assert CliRunner().invoke(main, ["report", str(bundle.path), "-o", str(page)]).exit_code == 0
    text = page.read_text()
    assert "an embedding of 64 numbers" in text
    assert "nearest neighbour" in text
    assert "top-1" not in text
    shown = CliRunner().invoke(main, ["inspect", str(bundle.path)])
    assert "an embedding of 64 numbers" in shown.stdout


def test_a_limit_for_the_mean_cosine(network: list[str], tmp_path: Path) -> None:
    def compiled(*limit: str, out: str) -> Any:
        given = ["--int4", "--calibration", "noise", "--images", "8", "--steps", "0", "--no-bench"]
        return CliRunner().invoke(
            compile_main,
            [*network, *given, *limit, "--target", "ort", "--json", "-o", str(tmp_path / out)],
        )

    plain = json.loads(compiled(out="plain.mimiq").stdout)
    (near,) = plain["similarity"]["heldout"].values()
    limit = 50 * (1 - near["mean"])  # half of what is lost
    kept = compiled("--max-drop", f"{limit:.4f}", out="kept.mimiq")
    assert kept.exit_code == 0, kept.output
    report = json.loads(kept.stdout)
    (raised,) = report["similarity"]["heldout"].values()
    assert near["mean"] < 1 - limit / 100 <= raised["mean"]
    assert any("mean cosine" in note and "Raised for" in note for note in report["notes"])
    refused = compiled("--max-drop", "0", out="refused.mimiq")
    assert refused.exit_code == 7
    assert "the mean cosine is" in refused.stderr


def test_layers_are_ranked_by_what_they_do_to_embeddings(network: list[str]) -> None:
    answer = CliRunner().invoke(
        main,
        ["sensitivity", *network, "--int4", "--calibration", "noise", "--images", "8", "--json"],
    )
    assert answer.exit_code == 0, answer.stderr
    found = json.loads(answer.stdout)
    assert found["loss"] > 0
    assert found["units"]
