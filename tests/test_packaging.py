"""What is published beside the packages: the archive's content, extras, versions, contacts."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_archive_has_what_a_packager_needs() -> None:
    lines = (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    named = {name for kind, *names in words if kind in ("include", "graft") for name in names}
    assert {"CHANGELOG.md", "docs", "tests", "benchmarks", "examples", "mkdocs.yml"} <= named
    for name in named:
        assert (ROOT / name).exists(), name


def test_there_is_one_version() -> None:
    cited = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {PROJECT['version']}\n" in cited
    assert f"\nlicense: {PROJECT['license']}\n" in cited


def test_every_extra_stands_on_the_page_of_installing() -> None:
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    for extra in PROJECT["optional-dependencies"].keys() - {"dev", "pycuda"}:
        assert f"'mimiq-vit[{extra}]'" in page, extra


def test_a_graph_is_packed_without_what_compiles() -> None:
    packs = [re.split(r"[<>=\[]", name)[0] for name in PROJECT["optional-dependencies"]["pack"]]
    assert packs == ["onnx", "onnx-ir"]


def test_security_says_how_to_report() -> None:
    text = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    for heading in ("## What is never executed", "## How to report"):
        assert heading in text


def test_the_floor_of_onnx_runtime_is_one_that_was_tried() -> None:
    """By the nightly test of every version, whose figures are kept; docs say the same."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    (floor,) = set(re.findall(r'"onnxruntime(?:-gpu)?(?:\[[^\]]*\])?>=(\d+\.\d+);', text))
    page = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    assert f"every minor version from {floor} to" in page
    kept = ROOT / "benchmarks" / "results" / "robustness_onnxruntime.json"
    versions = json.loads(kept.read_text(encoding="utf-8"))["figures"]["versions"]
    (row,) = (row for version, row in versions.items() if version.startswith(f"{floor}."))
    assert row
    assert all(re.fullmatch(r"6[34] of 64 the same", said) for said in row.values()), row
