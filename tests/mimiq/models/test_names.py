"""Names are known without the libraries that build the networks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import timm

from mimiq.errors import BadInput
from mimiq.models.names import EMBEDDED, SHORT_NAMES, check_name, described_names, timm_names


def test_they_are_those_that_timm_registers() -> None:
    assert {name for name, file in timm_names().items() if file} == set(timm.list_models())
    assert timm_names()["deit_tiny_patch16_224"] == "deit"


def test_timm_builds_former_names_too() -> None:
    former = [name for name, file in timm_names().items() if not file]
    assert "vit_tiny_patch16_224_in21k" in former
    assert all(timm.is_model(name) for name in former)
    assert not set(former) & set(described_names())


@pytest.mark.parametrize(
    "name",
    [
        EMBEDDED,
        *SHORT_NAMES,
        "vit_b_16",
        "vit_base_patch16_224.augreg_in21k_ft_in1k",
        "vit_tiny_patch16_224_in21k",
        "hf-hub:timm/vit_tiny_patch16_224",
        "google/vit-base-patch16-224",
        "local-dir:here",
    ],
)
def test_whatever_may_be_a_network_passes(name: str) -> None:
    check_name(name)


def test_a_folder_passes(tmp_path: Path) -> None:
    check_name(str(tmp_path))
    with pytest.raises(BadInput, match="does not exist"):
        check_name(str(tmp_path / "none"))


def test_others_are_refused_without_an_import_of_torch() -> None:
    script = (
        "import sys\n"
        "from mimiq.cli import compile_main\n"
        "try:\n    compile_main(['diet_t'])\n"
        "except SystemExit as stop:\n    print(stop.code, 'torch' in sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert run.stdout.split() == [str(BadInput.exit_code), "False"]
    assert "Did you mean deit_t" in run.stderr
