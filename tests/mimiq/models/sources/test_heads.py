"""Classifiers under other names, of other forms, or behind a network that has none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_files import NAME, State, below, check, drawn, network, said, saved
from torch import nn

from mimiq.errors import BadInput
from mimiq.models import load_model


@pytest.fixture(scope="module")
def plain() -> Any:
    return network()


@pytest.fixture(scope="module")
def body() -> Any:
    return network(num_classes=0)


def with_head(plain: Any, name: str) -> State:
    """The network's tensors, its classifier under another name."""
    return {
        f"{name}.{key.removeprefix('head.')}" if key.startswith("head.") else key: tensor
        for key, tensor in plain.state_dict().items()
    }


@pytest.mark.parametrize("name", ["head.1", "head.fc", "fc", "classifier", "mlp_head.0"])
def test_one_linear_is_the_classifier_whatever_its_name(
    name: str, plain: Any, tmp_path: Path
) -> None:
    model = load_model(NAME, weights=saved(with_head(plain, name), tmp_path))
    check(model, plain)
    assert repr(name) in said(model)


def test_swins_too(tmp_path: Path) -> None:
    name = "swin_tiny_patch4_window7_224"
    kwargs = {"depths": (1, 1, 1, 1)}
    original = network(name, img_size=56, **kwargs)
    state = {
        key.replace("head.fc.", "head.1."): tensor for key, tensor in original.state_dict().items()
    }
    path = saved(state, tmp_path)
    check(load_model(name, weights=path, image_size=56, model_kwargs=kwargs), original)


def test_the_batch_norm_of_a_linear_probe_is_folded(body: Any, tmp_path: Path) -> None:
    norm = nn.BatchNorm1d(192, affine=False, eps=1e-6)
    norm.running_mean = torch.randn(192)
    norm.running_var = torch.rand(192) + 0.5
    head = nn.Sequential(norm, nn.Linear(192, 7)).eval()
    state = body.state_dict() | below("head.", head.state_dict())
    model = load_model(NAME, weights=saved({"model": state}, tmp_path))
    check(model, nn.Sequential(body, head))
    assert "batch norm" in said(model)


@pytest.mark.parametrize(
    "heads",
    [
        {"linear_head.weight": torch.ones(9, 384)},
        {"head_age.weight": torch.ones(3, 192), "head_sex.weight": torch.ones(2, 192)},
        {"1.2.weight": torch.ones(64, 192), "1.4.weight": torch.ones(5, 64)},
        {"head.0.weight": torch.ones(192), "head.1.weight": torch.ones(5, 192)},
        {"fc.0.running_var": torch.ones(192), "fc.1.weight": torch.ones(5, 192)},
        {"neck.weight": torch.ones(192, 192), "classifier.weight": torch.ones(5, 192)},
    ],
    ids=["class-and-patches", "two-tasks", "two-layers", "layer-norm", "batch-norm", "neck"],
)
def test_layers_behind_the_network_are_not_dropped(heads: State, body: Any, tmp_path: Path) -> None:
    prefix = "0." if "1.2.weight" in heads else "backbone."
    path = saved(below(prefix, body.state_dict()) | heads, tmp_path)
    with pytest.raises(BadInput, match=next(iter(heads))):
        load_model(NAME, weights=path)


@pytest.mark.parametrize("name", ["out", "final", "output", "model.logits"])
def test_a_classifier_beside_a_body_has_many_names(name: str, body: Any, tmp_path: Path) -> None:
    head = nn.Linear(192, 7)
    parent = name.rpartition(".")[0]
    state = below(f"{parent}.net." if parent else "net.", body.state_dict())
    model = load_model(NAME, weights=saved(state | below(f"{name}.", head.state_dict()), tmp_path))
    check(model, nn.Sequential(body, head))


def test_open_clips_projection_beside_a_trunk_gives_an_embedding(body: Any, tmp_path: Path) -> None:
    projection = nn.Linear(192, 32, bias=False)
    state = below("module.visual.trunk.", body.state_dict())
    state |= below("module.visual.head.proj.", projection.state_dict())
    state |= {"module.text.ln_final.weight": torch.ones(4), "module.logit_bias": torch.ones(())}
    model = load_model(NAME, weights=saved({"state_dict": state, "epoch": 1}, tmp_path))
    check(model, nn.Sequential(body, projection))
    assert (model.output, model.embedding_dim) == ("embedding", 32)


def test_the_projector_of_moco_is_left_out(body: Any, tmp_path: Path) -> None:
    projector = {"head.0.weight": torch.ones(8, 192), "head.3.weight": torch.ones(8, 8)}
    state = below("base_encoder.", body.state_dict() | projector)
    state |= below("momentum_encoder.", network(num_classes=0, seed=1).state_dict() | projector)
    state |= {"predictor.0.weight": torch.ones(8, 8)}
    content = {"arch": "vit_small", "state_dict": below("module.", state)}
    model = load_model(NAME, weights=saved(content, tmp_path))
    check(model, body)
    assert (model.output, model.embedding_dim) == ("embedding", 192)
    assert "projector" in said(model)


def test_torchvisions_swin_with_a_classifier_of_ones_own(tmp_path: Path) -> None:
    library = pytest.importorskip("torchvision.models.swin_transformer")
    module = library.SwinTransformer([4, 4], 96, [1, 1, 1, 1], [3, 6, 12, 24], [7, 7])
    module.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(768, 4))
    original = drawn(module)
    path = saved({"state_dict": below("net.", original.state_dict())}, tmp_path)
    kwargs = {"depths": (1, 1, 1, 1)}
    model = load_model("swin_t", weights=path, image_size=56, model_kwargs=kwargs)
    check(model, original)
    assert model.num_classes == 4
