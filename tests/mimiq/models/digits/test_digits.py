"""The embedded model: its accuracy, its data, its files, and the script that trained it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import nn

from mimiq.models import load_model, quantizable_layers
from mimiq.models.digits import (
    FOLDER,
    HELDOUT_FILE,
    WEIGHTS_FILE,
    build_digits,
    create_digits,
    digits_heldout,
    digits_labels,
    digits_preprocessing,
    train,
)

TWO_MEGABYTES = 2_000_000


def test_heldout_accuracy_through_the_loader() -> None:
    model = load_model("digits")
    images, labels = digits_heldout()
    logits = model.module(torch.from_numpy(model.preprocessing.normalize(images)))
    assert logits.shape == (len(labels), model.num_classes)
    assert (logits.argmax(dim=-1).numpy() == labels).mean() >= train.LEAST_ACCURACY


def test_heldout_images_are_packed_as_documented() -> None:
    images, labels = digits_heldout()
    assert images.dtype == np.uint8
    assert images.shape == (len(labels), 32, 32, 3)
    assert labels.dtype == np.int64
    assert set(labels.tolist()) == set(range(10))
    assert len(labels) >= 300


def test_files_are_small() -> None:
    total = sum((FOLDER / name).stat().st_size for name in (WEIGHTS_FILE, HELDOUT_FILE))
    assert total <= TWO_MEGABYTES


def test_parameters_are_the_stored_half_precision_values() -> None:
    stored = load_file(FOLDER / WEIGHTS_FILE)
    state = create_digits().state_dict()
    assert state.keys() == stored.keys()
    for name, tensor in state.items():
        assert stored[name].dtype == torch.float16
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, stored[name].float()), name


def test_structure_suits_every_precision() -> None:
    model = load_model("digits")
    assert len(digits_labels()) == model.num_classes == 10
    for name, layer in quantizable_layers(model.module).items():
        if isinstance(layer, nn.Linear):
            assert layer.in_features % 128 == 0, f"{name} is no whole number of INT4 blocks"
    assert {attention.head_dim for attention in model.family.attentions(model.module)} == {32}


def test_explicit_attention_equals_timm() -> None:
    original, model = create_digits(), load_model("digits")
    assert not original.training
    images, _ = digits_heldout()
    inputs = torch.from_numpy(model.preprocessing.normalize(images[:64]))
    with torch.inference_mode():
        difference = (original(inputs) - model.module(inputs)).abs().max().item()
    assert difference <= 1e-4


def test_creating_leaves_the_random_state_alone() -> None:
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    create_digits()
    assert torch.equal(torch.rand(3), expected)


def test_an_image_file_meets_the_training_normalisation(tmp_path: Path) -> None:
    images, _ = digits_heldout()
    path = tmp_path / "digit.png"
    Image.fromarray(images[0]).save(path)
    loaded = digits_preprocessing().load([path])
    by_hand = images[:1].astype(np.float64).transpose(0, 3, 1, 2) / 255 * 2 - 1
    np.testing.assert_allclose(loaded, by_hand, atol=1e-6)
    np.testing.assert_array_equal(loaded, digits_preprocessing().normalize(images[:1]))


def test_split_is_disjoint_complete_and_stratified() -> None:
    labels = np.random.RandomState(3).randint(0, 10, 1000)
    chosen, heldout = train.split(labels)
    assert np.intersect1d(chosen, heldout).size == 0
    np.testing.assert_array_equal(np.sort(np.concatenate([chosen, heldout])), np.arange(1000))
    counts, out = np.bincount(labels), np.bincount(labels[heldout])
    assert np.abs(out - 0.2 * counts).max() <= 0.5


def test_packed_images_are_those_the_training_never_saw() -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    images, labels = train.digits_images()
    chosen, heldout = train.split(labels)
    packed_images, packed_labels = digits_heldout()
    np.testing.assert_array_equal(packed_images, images[heldout])
    np.testing.assert_array_equal(packed_labels, labels[heldout])
    trained_on = {image.tobytes() for image in images[chosen]}
    assert not any(image.tobytes() in trained_on for image in packed_images)


def test_augmentation_keeps_the_range_and_follows_its_generator() -> None:
    images, _ = digits_heldout()
    inputs = torch.from_numpy(digits_preprocessing().normalize(images[:8]))
    first = train.augment(inputs, torch.Generator().manual_seed(1))
    again = train.augment(inputs, torch.Generator().manual_seed(1))
    other = train.augment(inputs, torch.Generator().manual_seed(2))
    assert first.shape == inputs.shape
    assert first.abs().max() <= 1
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.allclose(first[:, 0], first[:, 1])  # grey stays grey
    with torch.inference_mode():
        model = create_digits()
        kept = (model(first).argmax(dim=-1) == model(inputs).argmax(dim=-1)).sum()
    assert kept >= 7  # still the same digits


def test_training_is_deterministic_and_ends_on_half_precision_values() -> None:
    images, labels = digits_heldout()
    first, again = (train.train(images[:32], labels[:32], epochs=2) for _ in range(2))
    for name, tensor in first.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name
        assert torch.equal(tensor, tensor.half().float()), name


def test_training_learns() -> None:
    images, labels = digits_heldout()
    two = np.flatnonzero(labels <= 1)[:64]
    module = train.train(images[two], labels[two], epochs=8)
    # Half of them by chance, with a standard deviation of 1/16.
    assert train.accuracy(module, images[two], labels[two]) > 0.75


def test_script_writes_what_it_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    monkeypatch.setattr(train, "train", lambda *_: create_digits())
    assert train.main(["--out", str(tmp_path / "new")]) == 0
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == [
        WEIGHTS_FILE,
        HELDOUT_FILE,
    ]
    written, shipped = load_file(tmp_path / "new" / WEIGHTS_FILE), load_file(FOLDER / WEIGHTS_FILE)
    assert written.keys() == shipped.keys()
    assert all(torch.equal(written[name], shipped[name]) for name in shipped)
    with np.load(tmp_path / "new" / HELDOUT_FILE) as packed:
        np.testing.assert_array_equal(packed["images"], digits_heldout()[0])
        np.testing.assert_array_equal(packed["labels"], digits_heldout()[1])


def test_script_keeps_a_poor_model_to_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    monkeypatch.setattr(train, "train", lambda *_: build_digits(0).eval())
    assert train.main(["--out", str(tmp_path)]) == 7
    assert "below 97%" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_script_reports_bad_arguments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn", reason="needs scikit-learn's digits")
    assert train.main(["--epochs", "0", "--out", str(tmp_path)]) == 2
    assert "--epochs" in capsys.readouterr().err
    monkeypatch.setattr(train, "train", lambda *_: create_digits())
    (tmp_path / "file").write_text("in the way")
    assert train.main(["--out", str(tmp_path / "file")]) == 2
    assert "--out" in capsys.readouterr().err


def test_heldout_images_need_no_torch() -> None:
    # The package above re-exports the torch-based loaders; this file is about its own imports.
    script = f"""
import importlib.util, sys
for name in ("torch", "timm", "safetensors", "onnx"):
    sys.modules[name] = None
spec = importlib.util.spec_from_file_location("digits", {str(FOLDER / "__init__.py")!r})
digits = importlib.util.module_from_spec(spec)
sys.modules["digits"] = digits
spec.loader.exec_module(digits)
images, labels = digits.digits_heldout()
print(len(images), len(labels), digits.digits_preprocessing().image_size, digits.digits_labels())
"""
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    count = len(digits_heldout()[1])
    assert out.stdout.split()[:3] == [str(count), str(count), "32"]
