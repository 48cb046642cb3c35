"""``mimiq report``: the page of a bundle, with the images that it was calibrated on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.cli import main
from mimiq.config.precision import int4
from mimiq.errors import BadInput
from mimiq.runtime.bundle import IMAGES, Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle
from mimiq.runtime.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=16, crop_pct=1.0)


def call(*arguments: object, exit_code: int = 0) -> Result:
    answer = CliRunner().invoke(main, ["report", *(str(argument) for argument in arguments)])
    assert answer.exit_code == exit_code, answer.output
    return answer


def noise(folder: Path, seed: int = 0) -> CalibrationSet:
    return gaussian_noise(PREPROCESSING, 16, seed, folder)  # more than is read with the head


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Finished stages: an unfinished set, another, and the bundle's."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "cache"
    (folder / "calibration-0" / "set").mkdir(parents=True)
    noise(folder / "calibration-1" / "set", seed=1)
    noise(folder / "calibration-2" / "set")
    return folder


def bundle(tmp_path: Path, calibration: dict[str, Any]) -> Path:
    graph = tmp_path / "model.onnx"
    graph.write_bytes(b"a graph")
    manifest = {
        "model": {"name": "digits", "num_classes": 10},
        "precision": int4().to_json(),
        "preprocessing": PREPROCESSING.to_json(),
        "inputs": [{"name": "images", "shape": ["batch", *PREPROCESSING.input_shape]}],
        "outputs": [{"name": "logits", "shape": ["batch", 10]}],
        "calibration": calibration,
    }
    return write_bundle(tmp_path / "digits-w4a8.mimiq", {"model.onnx": graph}, manifest).path


def test_images_are_found_among_the_finished_stages(tmp_path: Path, cache: Path) -> None:
    manifest = dict(CalibrationSet.open(cache / "calibration-2" / "set").manifest)
    made = bundle(tmp_path, manifest)
    answer = json.loads(call(made, "--cache-dir", cache, "--json").stdout)
    assert answer == {"path": "digits-w4a8.html", "images_shown": True}
    page = (tmp_path / "digits-w4a8.html").read_text(encoding="utf-8")
    assert "data:image/jpeg;base64," in page
    call(made, "--cache-dir", cache, exit_code=BadInput.exit_code)
    assert "digits-w4a8.html" in call(made, "--cache-dir", cache, "--force").stdout


def test_images_of_the_bundle_need_no_finished_stage(tmp_path: Path, cache: Path) -> None:
    made = bundle(tmp_path, dict(CalibrationSet.open(cache / "calibration-2" / "set").manifest))
    (tmp_path / "kept").write_bytes(b"kept")
    add_files(Bundle(made), {IMAGES: tmp_path / "kept"})
    answer = json.loads(call(made, "--cache-dir", cache, "--json").stdout)
    assert answer["images_shown"] is True
    assert "image/jpeg;base64,a2VwdA==" in (tmp_path / "digits-w4a8.html").read_text("utf-8")


def test_the_images_may_be_named(tmp_path: Path, cache: Path) -> None:
    named = noise(tmp_path / "set")
    made = bundle(tmp_path, dict(named.manifest))
    out = ["-o", tmp_path / "a.html", "--cache-dir", tmp_path / "empty"]
    call(made, "--calibration", named.path, *out)
    assert "data:image" in (tmp_path / "a.html").read_text(encoding="utf-8")
    other = cache / "calibration-1" / "set"
    answer = call(made, "--calibration", other, *out, "--force", exit_code=BadInput.exit_code)
    assert "the images differ" in answer.stderr


def cut(shard: Path) -> None:
    shard.write_bytes(shard.read_bytes()[:-100])


def flip(shard: Path) -> None:
    """A pixel, so that the shard's size and head are as ever."""
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def exchange(shard: Path) -> None:
    """Whole, and of another set."""
    shard.write_bytes((noise(shard.parent.with_name("other"), 7).path / shard.name).read_bytes())


@pytest.mark.parametrize("damage", [cut, flip, exchange])
def test_a_damaged_set_is_refused_where_it_is_named_and_left_out_else(
    tmp_path: Path, cache: Path, damage: Callable[[Path], None]
) -> None:
    kept = cache / "calibration-2" / "set"
    made = bundle(tmp_path, dict(CalibrationSet.open(kept).manifest))
    damage(kept / "batch-00000.npz")
    answer = json.loads(call(made, "--cache-dir", cache, "--json").stdout)
    assert answer["images_shown"] is False
    named = ["--calibration", kept, "--force"]
    answer = call(made, *named, "--cache-dir", cache, exit_code=BadInput.exit_code)
    assert str(kept) in answer.stderr
    noise(cache / "calibration-3" / "set")  # a whole one further on is found
    answer = json.loads(call(made, "--cache-dir", cache, "--json", "--force").stdout)
    assert answer["images_shown"] is True


def test_real_images_are_never_shown(tmp_path: Path, cache: Path) -> None:
    manifest = dict(CalibrationSet.open(cache / "calibration-2" / "set").manifest)
    made = bundle(tmp_path, manifest | {"kind": "folder"})
    call(made, "--cache-dir", cache, "-o", tmp_path / "a.html")
    assert "data:image/" not in (tmp_path / "a.html").read_text(encoding="utf-8")
    named = ["--calibration", cache / "calibration-2" / "set", "-o", tmp_path / "b.html"]
    assert "never shown" in call(made, *named, exit_code=BadInput.exit_code).stderr


def test_only_a_page_is_replaced(tmp_path: Path, cache: Path) -> None:
    made = bundle(tmp_path, {})
    (tmp_path / "notes.txt").write_text("mine")
    call(made, "-o", tmp_path / "notes.txt", "--force", exit_code=BadInput.exit_code)
    assert (tmp_path / "notes.txt").read_text() == "mine"
    assert "is not a bundle" in call(tmp_path / "cache", exit_code=BadInput.exit_code).stderr


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="there is no /proc")
def test_a_place_that_takes_no_files_is_named(tmp_path: Path, cache: Path) -> None:
    """Of all that can be asked beforehand the folder looks writable to root."""
    answer = call(bundle(tmp_path, {}), "-o", "/proc/page.html", exit_code=BadInput.exit_code)
    assert "/proc" in answer.stderr
    assert "cannot be written" in answer.stderr
