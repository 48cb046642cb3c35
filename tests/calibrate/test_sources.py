"""Calibration sets from folders of images and from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mimiq.calibrate import CalibrationSet, from_folder, gaussian_noise, open_or_import
from mimiq.errors import BadInput
from mimiq.runtime.preprocessing import Preprocessing

PREPROCESSING = Preprocessing(image_size=16, crop_pct=0.8)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """70 images (two shards) in two class folders, and files that are none."""
    root = tmp_path / "photos"
    for name, count in (("a", 40), ("b/deep", 30)):
        (root / name).mkdir(parents=True)
        for index in range(count):
            rng = np.random.default_rng([len(name), index])
            image = Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8))
            image.save(root / name / f"{index}.{'PNG' if index % 2 else 'bmp'}")
    (root / "val.txt").write_text("a/0.png 3\n")
    (root / ".hidden.png").write_bytes(b"no image")
    return root


def as_rows(images: np.ndarray) -> set[bytes]:
    return {image.tobytes() for image in images}


def test_folder_holds_the_evaluation_crop_of_every_image(photos: Path, tmp_path: Path) -> None:
    made = from_folder(photos, PREPROCESSING, tmp_path / "out")
    files = [file for file in photos.rglob("[0-9]*.*") if file.suffix in (".PNG", ".bmp")]
    crops = [PREPROCESSING.crop(Image.open(file)) for file in files]
    assert len(made) == len(files) == 70
    assert as_rows(made.images()) == as_rows(np.stack(crops))
    assert (made.labels == -1).all()
    assert made.manifest["kind"] == "folder"
    assert made.manifest["recipe"]["preprocessing"]["crop_pct"] == 0.8


def test_folder_order_and_choice_come_from_the_seed(photos: Path, tmp_path: Path) -> None:
    one = from_folder(photos, PREPROCESSING, tmp_path / "one", limit=10, seed=1)
    same = from_folder(photos, PREPROCESSING, tmp_path / "same", limit=10, seed=1)
    other = from_folder(photos, PREPROCESSING, tmp_path / "other", limit=10, seed=2)
    assert len(one) == 10
    assert one.content_hash == same.content_hash != other.content_hash
    everything = from_folder(photos, PREPROCESSING, tmp_path / "all", limit=1000)
    assert as_rows(one.images()) <= as_rows(everything.images())


def test_folder_resumes_and_sees_a_changed_image(photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    made = from_folder(photos, PREPROCESSING, out)
    kept = (out / "batch-00000.npz").stat().st_mtime_ns
    (out / "batch-00001.npz").write_bytes(b"cut short")
    assert from_folder(photos, PREPROCESSING, out).content_hash == made.content_hash
    assert (out / "batch-00000.npz").stat().st_mtime_ns == kept
    Image.new("RGB", (20, 30)).save(photos / "a" / "0.bmp")
    with pytest.raises(BadInput, match=r"another calibration set \(its recipe differs\)"):
        from_folder(photos, PREPROCESSING, out)


def test_folder_names_the_unreadable_image_and_leaves_no_set(photos: Path, tmp_path: Path) -> None:
    bad = photos / "a" / "7.PNG"
    bad.write_bytes(bad.read_bytes()[:200])
    with pytest.raises(BadInput, match=r"7\.PNG"):
        from_folder(photos, PREPROCESSING, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    bad.unlink()
    assert len(from_folder(photos, PREPROCESSING, tmp_path / "out")) == 69


def test_folder_follows_links_and_does_not_loop(photos: Path, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    try:
        (tree / "train").symlink_to(photos, target_is_directory=True)
        (photos / "a" / "up").symlink_to(photos, target_is_directory=True)
    except OSError:
        pytest.skip("this file system has no symbolic links")
    assert len(from_folder(tree, PREPROCESSING, tmp_path / "out")) == 70


def test_bad_folders(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").write_text("x")
    with pytest.raises(BadInput, match="empty holds no image"):
        from_folder(tmp_path / "empty", PREPROCESSING, tmp_path / "out")
    with pytest.raises(BadInput, match="no image folder"):
        from_folder(tmp_path / "absent", PREPROCESSING, tmp_path / "out")
    with pytest.raises(BadInput, match="among the images"):
        from_folder(photos, PREPROCESSING, photos / "out")
    with pytest.raises(BadInput, match="limit of 0"):
        from_folder(photos, PREPROCESSING, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()


def test_noise_is_a_clamped_standard_normal(tmp_path: Path) -> None:
    preprocessing = Preprocessing(image_size=64, mean=(0.5, 0.5, 0.5), std=(0.25, 0.1, 0.5))
    made = gaussian_noise(preprocessing, 6, 3, tmp_path / "noise")
    normalized = preprocessing.normalize(made.images())
    for channel, bound in enumerate((2.0, 5.0, 1.0)):
        values = normalized[:, channel]
        assert abs(values).max() <= bound + 1e-6
        # 24 576 samples: the standard error of the mean is 0.006.
        assert abs(values.mean()) < 0.03
        clamped = np.clip(np.random.default_rng(0).standard_normal(200_000), -bound, bound)
        assert values.std() == pytest.approx(clamped.std(), rel=0.02)
    assert made.manifest["kind"] == "noise"
    assert (made.labels == -1).all()


def test_noise_is_reproducible_and_grows(tmp_path: Path) -> None:
    few = gaussian_noise(PREPROCESSING, 5, 0, tmp_path / "few")
    many = gaussian_noise(PREPROCESSING, 70, 0, tmp_path / "many")
    again = gaussian_noise(PREPROCESSING, 5, 0, tmp_path / "few")
    other = gaussian_noise(PREPROCESSING, 5, 1, tmp_path / "other")
    assert few.content_hash == again.content_hash == many.subset(0, 5).content_hash
    assert few.content_hash != other.content_hash
    with pytest.raises(BadInput, match="0 images"):
        gaussian_noise(PREPROCESSING, 0, 0, tmp_path / "zero")


def test_open_or_import(photos: Path, tmp_path: Path) -> None:
    imported = open_or_import(photos, PREPROCESSING, tmp_path / "set", limit=12)
    assert len(imported) == 12
    ready = open_or_import(tmp_path / "set", PREPROCESSING, tmp_path / "unused", limit=5)
    np.testing.assert_array_equal(ready.images(), imported.images()[:5])
    assert not (tmp_path / "unused").exists()
    assert len(open_or_import(tmp_path / "set", PREPROCESSING, tmp_path / "unused", limit=99)) == 12
    with pytest.raises(BadInput, match="16 pixels, the network takes 224"):
        open_or_import(tmp_path / "set", Preprocessing(), tmp_path / "unused")


def test_a_folder_of_images_with_its_own_manifest_is_imported(photos: Path, tmp_path: Path) -> None:
    (photos / "manifest.json").write_text('{"files": 70}')
    assert not CalibrationSet.is_set(photos)
    assert len(open_or_import(photos, PREPROCESSING, tmp_path / "set")) == 70


def test_images_that_are_not_read_are_named(photos: Path, tmp_path: Path) -> None:
    (photos / "a" / "x.avif").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 \.avif"):
        assert len(from_folder(photos, PREPROCESSING, tmp_path / "out")) == 70
    (tmp_path / "phone").mkdir()
    (tmp_path / "phone" / "x.heic").write_bytes(b"")
    with pytest.raises(BadInput, match=r"holds no image.* 1 \.heic"):
        from_folder(tmp_path / "phone", PREPROCESSING, tmp_path / "none")
