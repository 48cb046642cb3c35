"""Pack → serve → check of a network without a classifier, whose answers are embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from serving_server import Server, mimiq, needs_server, passed, start, stop, wait_ready
from timm.models.vision_transformer import VisionTransformer

from mimiq import Preprocessing, compile

pytestmark = [needs_server, pytest.mark.slow]


def compiled(folder: Path, seed: int, features: str) -> Path:
    """The bundle of a small feature extractor with random weights."""
    torch.manual_seed(seed)
    network = VisionTransformer(
        img_size=32, patch_size=8, embed_dim=64, depth=2, num_heads=2, num_classes=0
    )
    bundle = compile(
        network,
        "int8",
        preprocessing=Preprocessing(32, 1.0),
        features=features,
        out=folder / f"{features}-{seed}.mimiq",
        cache=folder / "cache",
        calibration="noise",
        images=8,
        steps=0,
        batches=(),
        target="ort",
    )
    return bundle.path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("embeddings")


@pytest.fixture(scope="module")
def bundles(folder: Path) -> dict[str, Path]:
    """By what the network answers with: one embedding an image, or one a patch."""
    return {features: compiled(folder, 0, features) for features in ("pooled", "tokens")}


@pytest.fixture(scope="module")
def server(bundles: dict[str, Path], folder: Path) -> Iterator[Server]:
    repository = folder / "models"
    for features, bundle in bundles.items():
        passed("pack", bundle, "--triton", repository, "--name", features)
    running = start(repository)
    try:
        wait_ready(running, *bundles)
        yield running
    finally:
        stop(running)


@pytest.mark.parametrize("features", ["pooled", "tokens"])
@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_the_served_embeddings_pass_the_check(
    server: Server, bundles: dict[str, Path], features: str, protocol: str
) -> None:
    result = passed(
        *("check", "--url", server.url(protocol), "--protocol", protocol),
        *("--model", features, "--bundle", bundles[features]),
        *("--load", "1,2", "--seconds", "0.3"),
    )
    assert result["passed"]
    assert result["identity"] == "same"
    assert result["comparison"] is None
    (output,) = result["outputs"]
    assert output["name"] == "embedding"
    assert output["shape"][-1] == (64 if features == "pooled" else 16 * 64)
    # The same runtime on the same host: not one bit may differ on the way.
    assert result["similarity"]["least"] == pytest.approx(1, abs=1e-5)
    assert result["similarity"]["neighbour_agreement"] == 1
    assert all(row["wrong"] == 0 and row["requests"] >= 4 for row in result["load"])


def test_a_table_for_people_speaks_of_cosines(server: Server, bundles: dict[str, Path]) -> None:
    bundle = bundles["pooled"]
    answer = mimiq("check", "--url", server.http, "--model", "pooled", "--bundle", bundle)
    assert answer.exit_code == 0, answer.stderr
    assert "cosine" in answer.stdout
    assert "same nearest neighbour" in answer.stdout
    assert "top-1" not in answer.stdout


@pytest.mark.parametrize("features", ["pooled", "tokens"])
def test_another_extractor_is_not_the_deployed_one(
    server: Server, folder: Path, features: str
) -> None:
    other = compiled(folder, 1, features)
    answer = mimiq(
        *("check", "--url", server.grpc, "--protocol", "grpc", "--model", features),
        *("--bundle", other, "--json"),
    )
    assert answer.exit_code == 7, answer.stderr
    result = json.loads(answer.stdout)
    assert result["similarity"]["percentile_5"] < 0.98
    assert "osine" in " ".join(result["failures"])
