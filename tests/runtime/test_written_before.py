"""A bundle as mimiq 0.1.0 wrote it on 2026-11-28 still opens, and says the same."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from mimiq.errors import BadInput
from mimiq.runtime.bundle import Bundle
from mimiq.runtime.bundle_writing import add_files
from mimiq.runtime.manifest import manifest_digest
from mimiq.runtime.report.page import page
from mimiq.runtime.tensorrt.selection import engines_of

WRITTEN = Path(__file__).parent / "written_before"


@pytest.fixture
def old(tmp_path: Path) -> Bundle:
    """Its texts, with empty files in the place of graphs and engine."""
    folder = tmp_path / "digits-w4a8.mimiq"
    (folder / "engines").mkdir(parents=True)
    for name in ("manifest.json", "report.json", "labels.txt"):
        shutil.copyfile(WRITTEN / name, folder / name)
    shutil.copyfile(WRITTEN / "rtx.json", folder / "engines" / "rtx.json")
    for name in ("model.onnx", "model.cpu.onnx", "model.fp16.onnx", "engines/rtx.plan"):
        (folder / name).touch()
    return Bundle(folder, verify=False)


def test_what_it_is(old: Bundle) -> None:
    manifest = old.manifest
    assert (old.model_name, manifest.architecture, old.num_classes) == ("digits", "digits", 10)
    assert manifest.parameters == 546_186
    assert not old.untrained
    assert (old.precision.label, old.precision.attention_bits) == ("w4a8", 8)
    assert old.precision.of("blocks.1.mlp.fc2").weight_bits == 8  # raised for its budget
    assert old.precision.quantizes_activations
    assert not old.precision.is_int8
    assert old.preprocessing.image_size == 32
    assert (manifest.calibration_kind, manifest.seed) == ("synthetic", 0)
    assert manifest.recipes["name"] == "tiny"
    assert manifest.raised["size_budget"] == "0.4x"
    assert manifest.files["model.onnx"].bytes == 626_567
    assert manifest.digest.startswith("e3cc4f11")
    (engine,) = engines_of(old)
    assert (engine.record.product, engine.record.is_fp8) == ("rtx", False)


def test_what_was_measured(old: Bundle) -> None:
    text = page(old)
    for figure in ("98.61 %", "w4a8 → w8a8", "0.0968 at step 300", "3.5× smaller"):
        assert figure in text, figure


def test_it_is_written_again_with_all_that_it_said(old: Bundle, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("more")
    before = json.loads((WRITTEN / "manifest.json").read_text("utf-8"))
    added = add_files(old, {"more.txt": more})
    after = json.loads((added.path / "manifest.json").read_text("utf-8"))
    assert after["files"].pop("more.txt")["bytes"] == 4
    assert after.pop("manifest_sha256") != before.pop("manifest_sha256")
    assert after == before


def test_a_precision_that_is_none_is_named(old: Bundle) -> None:
    path = old.path / "manifest.json"
    manifest = json.loads(path.read_text("utf-8")) | {"precision": {"label": "w4a8"}}
    path.write_text(json.dumps(manifest | {"manifest_sha256": manifest_digest(manifest)}))
    with pytest.raises(BadInput, match="is incomplete"):
        Bundle(old.path, verify=False)
