"""What ``overwrite`` may replace: a bundle, and nothing that someone else put there."""

from __future__ import annotations

from pathlib import Path

import pytest
from runtime_models import MakeBundle, MakeModel, manifest_entries

from mimiq.errors import BadInput
from mimiq.runtime.bundle_writing import write_bundle


def test_overwrite_spares_what_is_no_bundle(tmp_path: Path, make_model: MakeModel) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis.tex").write_text("years of work")
    with pytest.raises(BadInput, match="not a bundle"):
        write_bundle(home, {"model.onnx": make_model()}, manifest_entries(), overwrite=True)
    assert (home / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize(
    "manifest",
    ['{"name": "a web application"}', '{"format": "mimiq-calibration/1", "files": {}}', "[]", "{"],
)
def test_overwrite_spares_other_folders_with_a_manifest(
    tmp_path: Path, make_model: MakeModel, manifest: str
) -> None:
    (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "index.html").write_text("years of work")
    with pytest.raises(BadInput, match="not a bundle"):
        write_bundle(tmp_path, {"model.onnx": make_model()}, manifest_entries(), overwrite=True)
    assert (tmp_path / "index.html").read_text() == "years of work"


def test_overwrite_spares_what_was_put_into_a_bundle(
    make_bundle: MakeBundle, make_model: MakeModel
) -> None:
    bundle = make_bundle()
    files = {"model.onnx": make_model(seed=1)}
    (bundle.path / "notes").mkdir()
    (bundle.path / "notes" / "runs.md").write_text("what we found")
    with pytest.raises(BadInput, match=r"holds notes/runs\.md"):
        write_bundle(bundle.path, files, manifest_entries(), overwrite=True)
    assert (bundle.path / "notes" / "runs.md").read_text() == "what we found"
    (bundle.path / "notes" / "runs.md").rename(bundle.path / ".DS_Store")
    write_bundle(bundle.path, files, manifest_entries(), overwrite=True)
