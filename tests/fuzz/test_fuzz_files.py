"""Files that people bring: checkpoints, images, lists of labels, calibration sets, plans."""

from __future__ import annotations

import io
import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from fuzzing import altered, answers, damaged, fuzzed, put
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.export.tensorrt.plan import read_plan
from mimiq.models.checkpoint import load_into, read_tensors
from mimiq.runtime.evaluation.labelled_folders import open_dataset
from mimiq.runtime.preprocessing import Preprocessing


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz")


NETWORK = torch.nn.Linear(3, 2)


@cache
def checkpoints() -> dict[str, bytes]:
    """A small network in every format."""
    state = {name: value.detach() for name, value in NETWORK.state_dict().items()}
    found = {".safetensors": save(state)}
    for suffix, zipped in ((".pth", True), (".old.pth", False)):
        buffer = io.BytesIO()
        torch.save({"model": state, "epoch": 3}, buffer, _use_new_zipfile_serialization=zipped)
        found[suffix] = buffer.getvalue()
    buffer = io.BytesIO()
    np.savez(buffer, **{name: value.numpy() for name, value in state.items()})
    found[".npz"] = buffer.getvalue()
    found[".index.json"] = json.dumps({"weight_map": {"weight": "a.safetensors"}}).encode()
    return found


def loaded(path: Path) -> None:
    tensors = {name.rpartition("/")[2]: value for name, value in read_tensors(path).items()}
    load_into(torch.nn.Linear(3, 2), tensors, path, "linear")


@fuzzed
@given(st.data())
def test_damaged_checkpoints(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(sorted(checkpoints())))
    path = put(folder / f"weights{suffix}", data.draw(damaged(checkpoints()[suffix])))
    answers(lambda: loaded(path))


TENSORS = st.builds(
    lambda shape, dtype: torch.zeros(shape).to(dtype),
    st.lists(st.integers(0, 3), max_size=3),
    st.sampled_from(
        [
            *(torch.float32, torch.float16, torch.bfloat16, torch.float64, torch.int8),
            *(torch.int64, torch.bool, torch.complex64, torch.float8_e4m3fn, torch.uint16),
        ]
    ),
)
STATES = st.recursive(
    TENSORS | st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.dictionaries(
            st.sampled_from(["weight", "bias", "model", "state_dict", "", "a/b", "\x1b[2J"]), inner
        )
        | st.lists(inner, max_size=3)
    ),
    max_leaves=8,
)


@fuzzed
@given(STATES)
def test_made_up_checkpoints(folder: Path, state: object) -> None:
    path = folder / "made_up.pth"
    torch.save(state, path)
    answers(lambda: loaded(path))


@cache
def pictures() -> dict[str, bytes]:
    """A small image in every format, and in the modes that need care."""
    found = {}
    values = np.arange(24 * 20 * 3, dtype=np.uint8).reshape(24, 20, 3)
    colour = Image.fromarray(values)
    deep = Image.fromarray(np.arange(480, dtype=np.uint16).reshape(24, 20) * 100)
    for suffix, image in (
        *((suffix, colour) for suffix in ("png", "jpg", "bmp", "gif", "webp", "tif", "ppm")),
        ("deep.png", deep),
        ("deep.tif", deep),
    ):
        buffer = io.BytesIO()
        form = {"jpg": "JPEG", "tif": "TIFF"}.get(suffix.rpartition(".")[2], "")
        image.save(buffer, form or suffix.rpartition(".")[2])
        found[suffix] = buffer.getvalue()
    return found


@fuzzed
@given(st.data())
def test_damaged_images(folder: Path, data: st.DataObject) -> None:
    suffix = data.draw(st.sampled_from(sorted(pictures())))
    path = put(folder / f"image.{suffix}", data.draw(damaged(pictures()[suffix])))
    pixels = answers(lambda: Preprocessing(16).read(path))
    assert pixels is None or (pixels.shape, pixels.dtype) == ((16, 16, 3), np.uint8)  # type: ignore[attr-defined]


LINES = st.lists(
    st.sampled_from(["a.png 0", "a.png 9", "a b.png 1", "a.png", "9", "", "a.png -1", "../a.png 1"])
    | st.text(max_size=30)
    | st.builds("{} {}".format, st.text(max_size=10), st.integers())
    | st.integers(0, 9).map(lambda number: "a.png" + " " * 3000 + str(number)),
    max_size=6,
)


@fuzzed
@given(LINES, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "latin-1"]))
def test_lists_of_labels(folder: Path, lines: list[str], encoding: str) -> None:
    place = folder / "listed"
    for name in ("a.png", "images/a b.png"):
        put(place / name, b"")
    put(place / "val.txt", "\n".join(lines).encode(encoding, errors="replace"))
    found = answers(lambda: open_dataset(place, 10))
    if found is not None:
        assert all(0 <= label < 10 for label in found.labels)  # type: ignore[attr-defined]
        assert all(path.is_file() for path in found.paths)  # type: ignore[attr-defined]


@cache
def calibration_set(folder: Path) -> dict[str, bytes]:
    made = gaussian_noise(Preprocessing(image_size=8), 4, 0, folder / "set").path
    return {file.name: file.read_bytes() for file in made.iterdir()}


@fuzzed
@given(st.data())
def test_calibration_sets(folder: Path, data: st.DataObject) -> None:
    contents = calibration_set(folder)
    shard, manifest = "batch-00000.npz", "manifest.json"
    if data.draw(st.booleans()):
        changed = {shard: data.draw(damaged(contents[shard]))}
    else:
        text = json.dumps(data.draw(altered(json.loads(contents[manifest]))))
        changed = {manifest: text.encode()}
    for name, content in {**contents, **changed}.items():
        (folder / "set" / name).write_bytes(content)

    def verified() -> CalibrationSet:
        found = CalibrationSet.open(folder / "set")
        found.verify()
        return found

    found = answers(verified)
    if found is not None and shard in changed:
        images = found.images()  # type: ignore[attr-defined]
        for name, content in contents.items():
            (folder / "set" / name).write_bytes(content)
        assert np.array_equal(images, CalibrationSet.open(folder / "set").images())


PLAN = b"""header {
  version = 5
  accelerators={sm80 sm89 }
}
descriptors {
  tensor={ dims={ "proxy.1" 64 } name="x" offset=0 region="devmem" type=int8 }
  tensor={ const_payload_size=2048 dims={ 64 64 } name="w" offset=1 region=consts type=int4 }
  tensor={ dims={ "proxy.1" 64 } name="y" offset=0 region="devmem" type=float }
  sub_tensor={ base="x" const_offset=0 dims={ "proxy.1" 64 } name="v" offset=0 type=int8 }
}
main {
  fully_connected={ name="a/MatMul" output={"y" } input={"v" "w" "one" "zero" } alpha=3F800000 \
layers="[ONNX Layer: a/MatMul]" }
}
"""


@fuzzed
@given(damaged(PLAN))
def test_plans(content: bytes) -> None:
    assert read_plan(content).plan_bytes == len(content)
