"""Bundles: written whole or not at all, and every damage named."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from runtime_models import CLASSES, SIZE, MakeBundle, MakeModel, manifest_entries

from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.files import write_whole
from mimiq.runtime import bundle_writing
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files, write_bundle
from mimiq.runtime.manifest import check_name, manifest_digest
from mimiq.runtime.preprocessing import Preprocessing
from mimiq.runtime.report.report import Report


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob(".*")]


def rewrite(bundle: Bundle, *, resign: bool, **changes: Any) -> None:
    """Change manifest entries (None removes), as an editor would or as an older writer might."""
    path = bundle.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest = {k: v for k, v in {**manifest, **changes}.items() if v is not None}
    if resign:
        manifest["manifest_sha256"] = manifest_digest(manifest)
    path.write_text(json.dumps(manifest))


def test_round_trip(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = Bundle(make_bundle().path)
    assert bundle.precision_label == "w8a8"
    assert bundle.model_name == "linear"
    assert bundle.num_classes == CLASSES
    assert not bundle.untrained
    assert bundle.labels is not None
    assert bundle.labels[3] == "class 3"
    assert bundle.preprocessing.image_size == 8
    assert bundle.report == Report()
    assert set(bundle.manifest["files"]) == {"model.onnx", "labels.txt", "report.json"}
    assert bundle.file("model.onnx") == bundle.model_path
    assert bundle.manifest["software"]["python"]
    assert leftovers(tmp_path) == []
    with pytest.raises(BadInput, match=r"no engines/a\.plan"):
        bundle.file("engines/a.plan")


def test_labels_survive_unusual_line_breaks(tmp_path: Path, make_model: MakeModel) -> None:
    labels = [f"a\u2028b{index}\x85" for index in range(CLASSES)]
    files = {"model.onnx": make_model()}
    bundle = write_bundle(tmp_path / "out", files, manifest_entries(), labels=labels)
    assert bundle.labels == tuple(labels)


@pytest.mark.parametrize("labels", [["one"], ["a\nb"] * CLASSES])
def test_labels_that_do_not_fit(tmp_path: Path, make_model: MakeModel, labels: list[str]) -> None:
    with pytest.raises(BadInput, match="label"):
        write_bundle(
            tmp_path / "out", {"model.onnx": make_model()}, manifest_entries(), labels=labels
        )
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_existing_output_is_kept(make_bundle: MakeBundle, make_model: MakeModel) -> None:
    bundle = make_bundle()
    with pytest.raises(BadInput, match="exists already"):
        make_bundle()
    files = {"model.onnx": make_model(seed=1)}
    replaced = write_bundle(bundle.path, files, manifest_entries(), overwrite=True)
    assert replaced.digest != bundle.digest
    assert replaced.labels is None
    assert leftovers(bundle.path.parent) == []
    Bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json"])
def test_a_file_grown_beyond_all_bounds_is_not_read(make_bundle: MakeBundle, name: str) -> None:
    bundle = make_bundle()
    os.truncate(bundle.path / name, 1 << 40)
    with pytest.raises(BadInput, match=name):
        Bundle(bundle.path)


@pytest.mark.parametrize("owner", ["alive", "of another host"])
def test_a_bundle_half_renewed_by_a_process_of_which_nothing_is_known(
    make_bundle: MakeBundle, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch, owner: str
) -> None:
    """As after a container was restarted while files were moved into a mounted bundle."""
    bundle = make_bundle()
    new = make_model(seed=1)
    monkeypatch.setattr(bundle_writing, "_is_fixed", lambda _: True)

    def killed(ready: Path, folder: Path) -> None:
        os.replace(ready / "model.onnx", folder / "model.onnx")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(bundle_writing, "move_in", killed)
        with pytest.raises(KeyboardInterrupt):
            add_files(bundle, {"model.onnx": new})
    (ready,) = bundle.path.glob(".ready.*")
    if owner == "of another host":
        host = ready.name.split(".")[2].partition("-")[0]
        ready.rename(ready.with_name(ready.name.replace(host, "0" * 6)))
    found = Bundle(bundle.path)
    assert found.model_path.read_bytes() == new.read_bytes()
    assert not list(bundle.path.glob(".*"))


@pytest.mark.parametrize(
    ("raised", "error"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), EnvironmentLacks),
        (PermissionError(errno.EACCES, "Permission denied"), BadInput),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
def test_a_failed_write_leaves_nothing(
    tmp_path: Path,
    make_model: MakeModel,
    monkeypatch: pytest.MonkeyPatch,
    raised: BaseException,
    error: type[BaseException],
) -> None:
    files = {"model.onnx": make_model(), "engines/a.plan": make_model("b.onnx")}
    copy, calls = shutil.copyfile, []

    def fail(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == 2:
            Path(target).write_bytes(b"half")
            raise raised
        copy(source, target)

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(error):
        write_bundle(tmp_path / "out", files, manifest_entries())
    assert len(calls) == 2
    assert not (tmp_path / "out").exists()
    assert leftovers(tmp_path) == []


def test_a_failed_addition_leaves_the_bundle_as_it_was(
    make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = make_bundle()

    def fail(source: Path, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", fail)
    with pytest.raises(EnvironmentLacks, match="disk is full"):
        add_files(bundle, {"engines/a.plan": bundle.model_path})
    assert Bundle(bundle.path).manifest == bundle.manifest
    assert leftovers(bundle.path) == []


def test_add_files(make_bundle: MakeBundle, tmp_path: Path) -> None:
    bundle = make_bundle()
    plan = tmp_path / "plan"
    plan.write_bytes(b"engine")
    added = add_files(
        bundle,
        {"engines/rtx.plan": plan},
        report=Report(notes=("more",)),
        updates={"engines": {"rtx": "engines/rtx.plan"}},
    )
    again = Bundle(bundle.path)
    assert again.manifest == added.manifest
    assert again.file("engines/rtx.plan").read_bytes() == b"engine"
    assert again.report == Report(notes=("more",))
    assert again.manifest["engines"] == {"rtx": "engines/rtx.plan"}
    assert again.digest != bundle.digest
    assert leftovers(bundle.path) == []


@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a\\b", "C:x", "manifest.json", "", "./x", "a//b"]
)
def test_names_that_lead_out(name: str) -> None:
    with pytest.raises(BadInput, match="cannot name a file"):
        check_name(name)


def test_files_are_added_to_a_folder_that_must_stay(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle, extra = make_bundle(), tmp_path / "engine"
    extra.write_bytes(b"engine")
    inode = bundle.path.stat().st_ino
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == bundle.path)
    added = add_files(bundle, {"engines/a": extra}, updates={"note": "added"})
    assert added.path.stat().st_ino == inode
    assert Bundle(bundle.path).file("engines/a").read_bytes() == b"engine"
    assert Bundle(bundle.path).manifest["note"] == "added"


def test_a_manifest_cannot_point_outside(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    files = {**bundle.manifest["files"], "../../etc/passwd": {"sha256": "", "bytes": 0}}
    rewrite(bundle, resign=True, files=files)
    with pytest.raises(BadInput, match="cannot name a file"):
        Bundle(bundle.path)


def test_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no bundle at"):
        Bundle(tmp_path / "absent")
    with pytest.raises(BadInput, match=r"has no manifest\.json"):
        Bundle(tmp_path)


@pytest.mark.parametrize("content", ["{", "[]", "\udcff", "[" * 100_000])
def test_broken_manifest(make_bundle: MakeBundle, content: str) -> None:
    bundle = make_bundle()
    path = bundle.path / "manifest.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(BadInput, match=r"manifest\.json (is not valid|holds no) JSON"):
        Bundle(bundle.path)


def test_other_format(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    rewrite(bundle, resign=True, format="mimiq-bundle/9")
    with pytest.raises(BadInput, match="mimiq-bundle/9"):
        Bundle(bundle.path)


def test_edited_manifest(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    rewrite(bundle, resign=False, precision={"label": "w4a4"})
    with pytest.raises(BadInput, match="was edited"):
        Bundle(bundle.path)


@pytest.mark.parametrize(
    "changes",
    [
        {"model": None},
        {"model": {"name": "x"}},
        {"model": {"num_classes": "ten"}},
        {"files": {}},
        {"files": []},
        {"preprocessing": {"image_size": 8}},
        {"precision": {}},
        {"inputs": None},
    ],
)
def test_incomplete_manifest(make_bundle: MakeBundle, changes: dict[str, Any]) -> None:
    bundle = make_bundle()
    rewrite(bundle, resign=True, **changes)
    with pytest.raises(BadInput, match=r"manifest\.json (is incomplete|lacks|lists no)"):
        Bundle(bundle.path)


def test_a_manifest_whose_preprocessing_cannot_be(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    content = bundle.preprocessing.to_json() | {"mean": ["half", 0.5, 0.5]}
    rewrite(bundle, resign=True, preprocessing=content)
    with pytest.raises(BadInput, match=r"manifest\.json: The mean .* no finite number"):
        Bundle(bundle.path)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "report.json"])
def test_missing_and_changed_files(make_bundle: MakeBundle, name: str) -> None:
    bundle = make_bundle()
    path = bundle.path / name
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(BadInput, match=rf"{name} is not the file"):
        Bundle(bundle.path)
    Bundle(bundle.path, verify=False)
    path.unlink()
    with pytest.raises(BadInput, match=rf"{name} is missing"):
        Bundle(bundle.path, verify=False)


def test_values_without_json_form(tmp_path: Path, make_model: MakeModel) -> None:
    manifest = {**manifest_entries(), "seed": float("nan")}
    with pytest.raises(BadInput, match="JSON"):
        write_bundle(tmp_path / "out", {"model.onnx": make_model()}, manifest)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"inputs": [{"name": "images", "dtype": "float32", "shape": ["batch", 3, 9, 9]}]},
        {"outputs": [{"name": "logits", "dtype": "float32", "shape": ["batch", CLASSES + 1]}]},
        {"preprocessing": Preprocessing(2**30, 1.0).to_json()},
        {"preprocessing": Preprocessing(SIZE, 1.0, mean=(0.0,) * 4, std=(1.0,) * 4).to_json()},
    ],
)
def test_a_manifest_that_contradicts_itself(
    make_bundle: MakeBundle, changes: dict[str, Any]
) -> None:
    bundle = make_bundle()
    rewrite(bundle, resign=True, **changes)
    with pytest.raises(BadInput, match="contradicts itself"):
        Bundle(bundle.path)


def test_a_mean_of_another_length(make_bundle: MakeBundle) -> None:
    bundle = make_bundle()
    preprocessing = {**bundle.preprocessing.to_json(), "mean": [0.5]}
    rewrite(bundle, resign=True, preprocessing=preprocessing)
    with pytest.raises(BadInput, match="one mean and one std") as caught:
        Bundle(bundle.path)
    assert "out of range" in caught.value.problem


@pytest.mark.parametrize("changes", [{"format": "x" * 300_000}, {"model": {"x" * 300_000: 1}}])
def test_a_message_does_not_repeat_a_manifest(
    make_bundle: MakeBundle, changes: dict[str, Any]
) -> None:
    bundle = make_bundle()
    rewrite(bundle, resign=True, **changes)
    with pytest.raises(BadInput) as caught:
        Bundle(bundle.path)
    assert len(str(caught.value)) < 2000


def test_weights_in_a_file_that_no_hash_covers(
    make_model: MakeModel, tmp_path: Path, make_bundle: MakeBundle
) -> None:
    import onnx

    apart = tmp_path / "apart" / "model.onnx"
    apart.parent.mkdir()
    onnx.save(
        onnx.load(make_model()),
        apart,
        save_as_external_data=True,
        location="weights.bin",
        size_threshold=0,
    )
    out = tmp_path / "apart.mimiq"
    write_bundle(out, {"model.onnx": apart}, manifest_entries())
    (out / "weights.bin").write_bytes(apart.with_name("weights.bin").read_bytes())
    with pytest.raises(BadInput, match=r"keeps weights in 'weights\.bin', which the manifest"):
        Bundle(out)
    shutil.rmtree(out)
    files = {"model.onnx": apart, "weights.bin": apart.with_name("weights.bin")}
    write_bundle(out, files, manifest_entries())
    assert Bundle(out).has("weights.bin")


def test_bytes_of_a_name_that_is_no_utf_8(tmp_path: Path, make_model: MakeModel) -> None:
    """They come back as they were; what the operating system gives for them has no UTF-8."""
    name = os.fsdecode(b"weights-\xff.pth")
    report = Report(command=f"mimiq-compile digits --weights {name}")
    out = tmp_path / "out.mimiq"
    entries = manifest_entries(weights=name)
    bundle = write_bundle(out, {"model.onnx": make_model()}, entries, report=report)
    assert Bundle(out).manifest.model["weights"] == name
    assert bundle.report is not None
    assert bundle.report.command == report.command
    (out / "manifest.json").read_text(encoding="utf-8")
    write_whole(tmp_path / "page.html", name)
    assert (tmp_path / "page.html").read_text(encoding="utf-8") == "weights-\\udcff.pth"
