"""Users without a home, bundles that may only be read, and paths of any letters."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runtime_models import SIZE, manifest_entries, write_linear_classifier

from mimiq.runtime import Bundle
from mimiq.runtime.bundle_writing import write_bundle

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="users of POSIX")
NOBODY = 54321
MAIN = "from mimiq.entry import main; main()"
# Still root in effect: Python itself may lie where only root reads.
AS_NOBODY = f"import os; os.setresuid({NOBODY}, 0, 0); {MAIN}"


@pytest.fixture
def place() -> Iterator[Path]:
    """Where anyone may write: the folders above ``tmp_path`` are for its owner alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o777)
        yield Path(folder)


@pytest.fixture
def bundle(place: Path, tmp_path: Path) -> Bundle:
    """It keeps no images, so that its report looks for them among the finished stages."""
    model = write_linear_classifier(tmp_path / "linear.onnx", quantized=True)
    return write_bundle(place / "Grüße an alle.mimiq", {"model.onnx": model}, manifest_entries())


def _run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, env={}, capture_output=True, encoding="utf-8", cwd=folder)


@pytest.mark.parametrize("program", [MAIN, AS_NOBODY], ids=["no environment", "no entry"])
def test_doctor_and_report_without_a_home(program: str, bundle: Bundle, place: Path) -> None:
    if program is AS_NOBODY:
        _require_no_such_user()
    done = _run([sys.executable, "-c", program, "doctor", "--json"], place)
    assert done.returncode == 0, done.stderr
    homeless = json.loads(done.stdout)["cache"]["folder"] is None
    assert homeless == (program is AS_NOBODY)

    command = ["report", str(bundle.path), "-o", "page.html"]
    done = _run([sys.executable, "-c", program, *command], place)
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "page.html").is_file()


@pytest.mark.nightly  # it loads PyTorch
def test_a_compilation_of_a_user_without_a_home_says_what_to_set(place: Path) -> None:
    _require_no_such_user()
    command = ["compile", "digits", "--int8", "--quiet", "-o", "out.mimiq"]
    done = _run([sys.executable, "-c", AS_NOBODY, *command], place)
    assert done.returncode == 6, done.stderr
    assert done.stderr.startswith("error: This user has no home folder")
    assert "MIMIQ_CACHE" in done.stderr


def _require_no_such_user() -> None:
    import pwd

    if os.geteuid() != 0:
        pytest.skip("only root may be somebody else")
    try:
        pwd.getpwuid(NOBODY)
    except KeyError:
        return
    pytest.skip("there is such a user")


@pytest.fixture
def read_only(bundle: Bundle) -> Iterator[Path]:
    """In a folder that may not be written to, either."""
    places = [*bundle.path.rglob("*"), bundle.path]
    for place in places:
        place.chmod(0o444 if place.is_file() else 0o555)
    yield bundle.path
    for place in places:
        place.chmod(0o755)


@pytest.mark.parametrize("words", [["inspect"], ["eval", "Bilder für mich"]])
def test_a_bundle_that_may_only_be_read(read_only: Path, words: list[str], tmp_path: Path) -> None:
    images = tmp_path / "Bilder für mich"
    images.mkdir()
    Image.fromarray(np.zeros((SIZE, SIZE, 3), np.uint8)).save(images / "ein Bild.png")
    (images / "val.txt").write_text("ein Bild.png 0\n")
    before = {path: path.stat().st_mtime_ns for path in [*read_only.rglob("*"), read_only]}
    writes = f"open({str(read_only / 'new')!r}, 'w')"
    assert "PermissionError" in _run([*_bound_by_modes(), "-c", writes], tmp_path).stderr
    command, *more = words
    done = _run(
        [*_bound_by_modes(), "-c", MAIN, command, str(read_only), *more, "--json"], tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") <= 3
    found = json.loads(done.stdout)
    assert found["accuracy"]["count"] == 1 if command == "eval" else found["bundle"]
    assert before == {path: path.stat().st_mtime_ns for path in [*read_only.rglob("*"), read_only]}


def _bound_by_modes() -> list[str]:
    """Python; where this is root, without root's right to write all the same."""
    if os.geteuid() != 0:
        return [sys.executable]
    found = shutil.which("setpriv")
    if found is None:
        pytest.skip("root may write everywhere, and there is no setpriv")
    return [found, "--bounding-set=-dac_override,-dac_read_search", sys.executable]
