"""Users' mistakes through the real command line: one clear error, its exit code, no traceback."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from click.testing import CliRunner
from compiled import Fails
from PIL import Image
from safetensors.torch import load_file, save_file

from mimiq.calibrate import gaussian_noise
from mimiq.cli import main
from mimiq.errors import BadInput, EnvironmentLacks, UnsupportedModel
from mimiq.models.digits import FOLDER, WEIGHTS_FILE
from mimiq.runtime.preprocessing import Preprocessing


@pytest.fixture
def no_slow_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is slow fails the test: the mistake must have been found before."""
    import mimiq.compiler

    def reached(*_: object, **__: object) -> None:
        raise AssertionError("a slow stage was reached")

    monkeypatch.setattr(mimiq.compiler, "compile_model", reached)


class TestModel:
    def test_unknown_with_suggestions(self, fails: Fails) -> None:
        said = fails("diet_t")
        assert "Model 'diet_t' is unknown" in said
        assert "Did you mean deit_t" in said

    def test_no_vision_transformer_is_refused_before_it_is_downloaded(
        self, fails: Fails, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create = timm.create_model

        def offline(name: str, pretrained: bool, **shape: object) -> object:
            assert not pretrained
            return create(name, pretrained=False, **shape)

        monkeypatch.setattr(timm, "create_model", offline)
        said = fails("resnet18", exit_code=UnsupportedModel.exit_code)
        assert "is of the class ResNet, which is convolutional" in said

    @pytest.mark.parametrize("pixels", [1, 100])
    def test_images_that_do_not_divide_into_patches(self, fails: Fails, pixels: int) -> None:
        said = fails("deit_t", "--untrained", "--image-size", pixels)
        assert f"Images of {pixels} pixels do not divide" in said

    def test_weights_that_are_a_folder(self, fails: Fails, tmp_path: Path) -> None:
        assert "is a folder" in fails("deit_t", "--weights", tmp_path)

    def test_unknown_without(self, fails: Fails) -> None:
        assert "Run: mimiq models" in fails("qqqqqq")

    def test_no_vision_transformer(self, fails: Fails) -> None:
        said = fails("resnet18", "--untrained", exit_code=3)
        assert "which is convolutional" in said

    def test_device(self, fails: Fails) -> None:
        assert "Device 'tpu' is unknown" in fails("digits", "--device", "tpu")


class TestCheckpoint:
    @pytest.fixture
    def weights(self) -> dict[str, torch.Tensor]:
        return load_file(FOLDER / WEIGHTS_FILE)

    def test_absent(self, fails: Fails, tmp_path: Path) -> None:
        assert "does not exist" in fails("digits", "--weights", tmp_path / "none.safetensors")

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    def test_truncated(
        self, fails: Fails, tmp_path: Path, weights: dict[str, torch.Tensor], suffix: str
    ) -> None:
        file = tmp_path / f"weights{suffix}"
        if suffix == ".pth":
            torch.save(weights, file)
        else:
            save_file(weights, file)
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
        said = fails("digits", "--weights", file)
        assert str(file) in said
        assert "readable" in said

    def test_of_another_network(
        self, fails: Fails, tmp_path: Path, weights: dict[str, torch.Tensor]
    ) -> None:
        file = tmp_path / "foreign.safetensors"
        renamed = {name.replace("blocks", "stages"): value for name, value in weights.items()}
        save_file(renamed, file)
        assert "does not fit digits" in fails("digits", "--weights", file)

    def test_that_would_run_code(self, fails: Fails, tmp_path: Path) -> None:
        file = tmp_path / "whole.pth"
        torch.save(torch.nn.Linear(2, 2), file)
        assert "never executes" in fails("digits", "--weights", file)

    def test_of_another_class_count(self, fails: Fails, tmp_path: Path) -> None:
        file = tmp_path / "five.safetensors"
        save_file(timm.create_model("vit_tiny_patch16_224", num_classes=5).state_dict(), file)
        said = fails("vit_t", "--weights", file, "--num-classes", 7)
        assert "5 classes" in said
        assert "--num-classes 7 was" in said

    def test_untrained_contradicts_weights(self, fails: Fails, tmp_path: Path) -> None:
        said = fails("deit_t", "--untrained", "--weights", tmp_path / "x.pth")
        assert "exclude each other" in said


@pytest.mark.usefixtures("no_slow_stage")
class TestLabels:
    def test_of_another_number(self, fails: Fails, tmp_path: Path) -> None:
        file = tmp_path / "labels.txt"
        file.write_text("cat\ndog\n")
        assert "2 labels were given, but digits has 10 classes" in fails("digits", "--labels", file)

    def test_absent(self, fails: Fails, tmp_path: Path) -> None:
        assert "cannot be read" in fails("digits", "--labels", tmp_path / "none.txt")


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(path)


@pytest.mark.usefixtures("no_slow_stage")
class TestImageFolders:
    def test_a_limit_of_no_images(self, fails: Fails) -> None:
        assert "none were given" in fails("digits", "--eval-limit", 5)

    def test_a_finished_set_is_taken_whole(self, fails: Fails, tmp_path: Path) -> None:
        gaussian_noise(Preprocessing(image_size=32), 4, 0, tmp_path / "set")
        flags = ["--calibration", tmp_path / "set", "--images", 2]
        assert "is taken whole" in fails("digits", *flags)

    @pytest.mark.parametrize("flag", ["--eval", "--calibration"])
    def test_absent(self, fails: Fails, tmp_path: Path, flag: str) -> None:
        said = fails("digits", flag, tmp_path / "none")
        assert "does not exist" in said
        assert str(tmp_path / "none") in said

    def test_empty(self, fails: Fails, tmp_path: Path) -> None:
        (tmp_path / "empty" / "0").mkdir(parents=True)
        assert "hold no images" in fails("digits", "--eval", tmp_path / "empty")

    @pytest.mark.parametrize("flag", ["--eval", "--calibration"])
    def test_a_file(self, fails: Fails, tmp_path: Path, flag: str) -> None:
        picture(tmp_path / "one.png")
        assert "is a file" in fails("digits", flag, tmp_path / "one.png")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
    def test_without_permission(self, fails: Fails, tmp_path: Path) -> None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0)
        assert "may not be read" in fails("digits", "--eval", folder)

    def test_a_broken_image_to_evaluate_on(self, fails: Fails, tmp_path: Path) -> None:
        picture(tmp_path / "set" / "0" / "good.png")
        (tmp_path / "set" / "1").mkdir()
        (tmp_path / "set" / "1" / "bad.png").write_text("no image")
        said = fails("digits", "--eval", tmp_path / "set")
        assert "bad.png is not an image" in said

    def test_a_label_out_of_range_in_a_listing(self, fails: Fails, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            picture(tmp_path / "set" / "images" / name)
        (tmp_path / "set" / "val.txt").write_text("a.png 9\nb.png 10\n")
        said = fails("digits", "--eval", tmp_path / "set")
        assert "line 2: class 10 is out of range for a model with 10 classes" in said

    def test_a_class_folder_out_of_range(self, fails: Fails, tmp_path: Path) -> None:
        picture(tmp_path / "set" / "10" / "a.png")
        assert "class 10 is out of range" in fails("digits", "--eval", tmp_path / "set")


class TestCalibrationFolders:
    """Found in the first stage."""

    def test_empty(self, fails: Fails, tmp_path: Path) -> None:
        (tmp_path / "empty").mkdir()
        assert "holds no image" in fails("digits", "--calibration", tmp_path / "empty")

    def test_a_broken_image(self, fails: Fails, tmp_path: Path) -> None:
        picture(tmp_path / "set" / "good.png")
        (tmp_path / "set" / "bad.png").write_text("no image")
        assert "bad.png is not an image" in fails("digits", "--calibration", tmp_path / "set")

    def test_a_set_of_another_size(self, fails: Fails, tmp_path: Path) -> None:
        made = tmp_path / "set"
        gaussian_noise(Preprocessing(image_size=16), 2, 0, made)
        said = fails("digits", "--calibration", made)
        assert "images of 16×16 pixels, the network takes 32×32" in said

    def test_an_unfinished_set(self, fails: Fails, tmp_path: Path) -> None:
        made = tmp_path / "set"
        gaussian_noise(Preprocessing(image_size=32), 2, 0, made)
        (made / "batch-00000.npz").unlink()
        assert str(made) in fails("digits", "--calibration", made)


@pytest.mark.usefixtures("no_slow_stage")
def test_a_block_that_does_not_divide(fails: Fails) -> None:
    said = fails("digits", "--int4", "--weight-only", "--block-size", 96)
    assert "Block size 96 does not divide the 128 inputs of blocks.0.attn.qkv" in said


class TestOutput:
    """Refused before anything is loaded: the model's name is not even looked at."""

    def test_exists(self, fails: Fails, tmp_path: Path) -> None:
        (tmp_path / "there").mkdir()
        said = fails("deit_t", "-o", tmp_path / "there")
        assert f"{tmp_path / 'there'} exists already" in said
        assert "--force" in said

    @pytest.mark.parametrize("kind", ["folder", "file"])
    def test_is_not_replaced_unless_it_is_a_bundle(
        self, fails: Fails, tmp_path: Path, kind: str
    ) -> None:
        there = tmp_path / "precious"
        if kind == "folder":
            there.mkdir()
            (there / "thesis.tex").write_text("…")
        else:
            there.write_text("…")
        assert "will not be replaced" in fails("deit_t", "--force", "-o", there)
        assert there.exists()

    @pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc here")
    def test_lies_where_nobody_may_write(self, fails: Fails) -> None:
        said = fails("deit_t", "-o", "/proc/engines/deit.mimiq")
        assert "/proc is no folder that you may write to" in said

    def test_lies_below_a_file(self, fails: Fails, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        said = fails("deit_t", "-o", tmp_path / "file" / "x.mimiq")
        assert f"{tmp_path / 'file'} is no folder that you may write to" in said

    def test_target_that_cannot_be_built_here(self, fails: Fails) -> None:
        from mimiq.runtime.tensorrt.products import TRT

        if TRT.can_build_here():
            pytest.skip("TensorRT builds on this host")
        said = fails("deit_t", "--target", "trt", exit_code=EnvironmentLacks.exit_code)
        assert "TensorRT" in said


class TestBundles:
    @pytest.mark.parametrize("command", ["eval", "bench", "inspect", "build"])
    def test_absent(self, tmp_path: Path, command: str) -> None:
        answer = CliRunner().invoke(main, [command, str(tmp_path / "none.mimiq")])
        assert answer.exit_code == BadInput.exit_code
        assert "There is no bundle at" in answer.stderr

    def test_no_onnx_file(self, tmp_path: Path) -> None:
        file = tmp_path / "model.onnx"
        file.write_bytes(b"no model")
        answer = CliRunner().invoke(main, ["inspect", str(file)])
        assert answer.exit_code == BadInput.exit_code
        assert "is not a readable ONNX model" in answer.stderr

    def test_no_folder_of_distill(self, tmp_path: Path) -> None:
        for source in (tmp_path / "none", tmp_path):
            answer = CliRunner().invoke(main, ["export", "digits", "--from", str(source)])
            assert answer.exit_code == BadInput.exit_code
            assert str(source) in answer.stderr
