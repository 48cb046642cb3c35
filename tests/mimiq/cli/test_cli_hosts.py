"""Odd hosts and streams: one sentence that says so, and never a traceback."""

from __future__ import annotations

import errno
import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import platformdirs
import pytest
from click.testing import CliRunner
from compiled import INT8, Compile
from open_files import files_left
from PIL import Image
from runtime_models import CLASSES, SIZE, manifest_entries, write_linear_classifier

from mimiq.cli import main
from mimiq.cli.failures import explained
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.files import writing
from mimiq.runtime import Bundle, open_bundle
from mimiq.runtime.bundle_writing import write_bundle

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"], ["--version"], ["models"]])
def test_help_and_lists_into_a_full_stream(words: list[str]) -> None:
    command = [sys.executable, "-m", "mimiq.cli", *words]
    with FULL.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode == EnvironmentLacks.exit_code
    said = "error: The disk is full: standard output could not be written.\n  Free some space"
    assert done.stderr.startswith(said)
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(not FULL.exists(), reason="no device that is full")
@pytest.mark.parametrize("streams", ["2>/dev/full", ">&- 2>&-"])
@pytest.mark.parametrize(("words", "code"), [("--version", 0), ("inspect nowhere", 2)])
def test_where_nothing_can_be_said(streams: str, words: str, code: int) -> None:
    """The exit code says it alone."""
    command = f'"{sys.executable}" -m mimiq.cli {words} {streams}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.returncode == code
    assert done.stderr == ""
    assert (done.stdout == "") == (streams != "2>/dev/full" or code != 0)


@pytest.fixture
def no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of no entry among the host's users, and with no HOME."""

    def lost(*_args: object, **_options: object) -> Path:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.delenv("MIMIQ_CACHE", raising=False)
    monkeypatch.setattr(platformdirs, "user_cache_path", lost)


@pytest.mark.usefixtures("no_home")
def test_doctor_without_a_home() -> None:
    done = CliRunner().invoke(main, ["doctor", "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["cache"]["folder"] is None
    assert any("MIMIQ_CACHE" in step for step in found["next_steps"])
    assert "no home" in CliRunner().invoke(main, ["doctor"]).stdout


@pytest.mark.usefixtures("no_home")
def test_a_compilation_without_a_home_says_what_to_set(tmp_path: Path) -> None:
    out = str(tmp_path / "x")
    done = CliRunner().invoke(main, ["compile", "digits", "--int8", "--quiet", "-o", out])
    assert done.exit_code == 6
    assert "MIMIQ_CACHE" in done.stderr


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("out"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        ImportError("libtorch_cuda.so: failed to map segment from shared object"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("std::bad_alloc"),
        ImportError("\n\nIMPORTANT: READ THIS\n\nx.so: failed to map segment from shared object"),
        SystemError("error return without exception set"),
    ],
)
def test_memory_that_ran_out_is_no_defect(error: Exception) -> None:
    found = explained(error)
    assert isinstance(found, EnvironmentLacks)
    assert "memory" in found.problem
    assert "IMPORTANT" not in found.problem


def test_too_many_open_files_are_no_defect() -> None:
    found = explained(OSError(errno.EMFILE, "Too many open files"))
    assert isinstance(found, EnvironmentLacks)
    assert "ulimit" in found.next_step
    with pytest.raises(EnvironmentLacks, match="Too many files"), writing(Path("there")):
        raise OSError(errno.EMFILE, "Too many open files", "there")


def test_other_errors_are_a_defect() -> None:
    assert explained(RuntimeError("shapes do not match")) is None


def test_a_session_says_that_it_cannot_be_pickled(compile_digits: Compile) -> None:
    with (
        open_bundle(compile_digits(*INT8).path) as session,
        pytest.raises(BadInput, match="pickled"),
    ):
        pickle.dumps(session)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    model = write_linear_classifier(tmp_path / "linear.onnx", quantized=True)
    return write_bundle(tmp_path / "linear.mimiq", {"model.onnx": model}, manifest_entries())


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_little_memory_is_said(bundle: Bundle) -> None:
    """So little that what prints the error finds none either."""
    command = [sys.executable, "-m", "mimiq.cli", "inspect", str(bundle.path), "--json"]
    done = subprocess.run(
        ["sh", "-c", 'ulimit -v 150000; exec "$@"', "sh", *command],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    if done.returncode == 0:
        pytest.skip("it is enough on this host")
    assert done.returncode == 6, done.stderr
    assert "memory is exhausted" in done.stderr
    assert "Traceback" not in done.stderr


def images_of_classes(folder: Path, labels: range) -> Path:
    for label in labels:
        (folder / str(label)).mkdir(parents=True)
        Image.new("RGB", (SIZE, SIZE), (label, label, label)).save(folder / f"{label}/0.png")
    return folder


@pytest.mark.parametrize("flags", [[], ["--quiet"]])
def test_what_is_doubtful_about_images_is_said(
    bundle: Bundle, tmp_path: Path, flags: list[str]
) -> None:
    folder = images_of_classes(tmp_path / "images", range(1, CLASSES))
    for name in ("1/deep.png", "2/deep.png"):
        Image.fromarray(np.full((SIZE, SIZE), 40_000, np.uint16)).save(folder / name)
    (folder / "3" / "x.avif").write_bytes(b"")
    done = CliRunner().invoke(main, ["eval", str(bundle.path), str(folder), *flags])
    assert done.exit_code == 0, done.stderr
    for words in ("There is no folder 0", "1 .avif", "at their range"):
        assert done.stderr.count(words) == 1
    plain = images_of_classes(tmp_path / "plain", range(CLASSES))
    assert "note:" not in CliRunner().invoke(main, ["eval", str(bundle.path), str(plain)]).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits of Linux")
def test_few_open_files_are_said_or_enough(bundle: Bundle, tmp_path: Path) -> None:
    words = [
        "eval",
        str(bundle.path),
        str(images_of_classes(tmp_path / "images", range(CLASSES))),
        "--quiet",
    ]
    assert CliRunner().invoke(main, words).exit_code == 0  # all that it imports is there then
    codes = []
    for left in range(12):
        with files_left(left):
            done = CliRunner().invoke(main, words)
        if done.exit_code:
            assert done.stderr.startswith("error: Too many files are open.\n"), done.stderr
        codes.append(done.exit_code)
    assert set(codes) == {0, 6}
    assert codes == sorted(codes, reverse=True)
    # From the start, where imports need them too.
    command = [sys.executable, "-m", "mimiq.cli", *words]
    limited = ["sh", "-c", 'ulimit -n 6; exec "$@"', "sh", *command]
    started = subprocess.run(limited, capture_output=True, text=True)
    assert started.returncode in (0, 6), started.stderr
    assert "Traceback" not in started.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="streams of POSIX")
def test_a_reader_that_leaves_early_is_no_error(bundle: Bundle) -> None:
    command = f'"{sys.executable}" -m mimiq.cli inspect "{bundle.path}" --json | head -n 1'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True)
    assert done.stdout == "{\n"
    assert done.stderr == ""


@pytest.mark.skipif(not FULL.exists(), reason="no device that is full")
def test_a_result_into_a_full_stream(bundle: Bundle) -> None:
    command = [sys.executable, "-m", "mimiq.cli", "inspect", str(bundle.path), "--json"]
    with FULL.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 6
    assert done.stderr.startswith("error: The disk is full: standard output could")
    assert "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="streams of POSIX")
@pytest.mark.parametrize("stream", ["2>/dev/full", "2>&1 >told | true"])
def test_the_work_goes_on_where_its_progress_cannot_be_told(
    stream: str, bundle: Bundle, tmp_path: Path
) -> None:
    if "full" in stream and not FULL.exists():
        pytest.skip("no device that is full")
    words = f'bench "{bundle.path}" --backend ort --batches 1 --seconds 0.1 --json'
    command = f'"{sys.executable}" -m mimiq.cli {words} {stream}'
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0
    told = done.stdout or (tmp_path / "told").read_text()
    assert json.loads(told)["bundle"] == str(bundle.path)


@pytest.mark.skipif(sys.platform != "linux", reason="a folder that is used cannot be removed")
@pytest.mark.parametrize("words", [["inspect"], ["bench", "--quiet"], ["eval", "--quiet"]])
def test_a_folder_that_was_removed(
    words: list[str], bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    done = CliRunner().invoke(main, [*words, str(bundle.path)])
    assert done.exit_code == 2
    expected = "error: The folder you are in was removed.\n  Change to another folder.\n"
    assert done.stderr == expected


@pytest.mark.skipif(sys.platform != "linux", reason="names of Linux")
@pytest.mark.parametrize(
    ("name", "why"), [(b"out-\xff.mimiq", "is not UTF-8"), (b"x" * 300, "is too long")]
)
def test_a_name_that_cannot_be_is_refused_before_the_work(
    name: bytes, why: str, tmp_path: Path
) -> None:
    out = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    done = CliRunner().invoke(main, ["compile", "digits", "--int8", "--quiet", "-o", out])
    assert done.exit_code == 2, done.stderr
    assert why in done.stderr
    done.stderr.encode()


@pytest.mark.parametrize(
    "words",
    [
        ["inspect", "x" * 5000],
        ["inspect", "x" * 5000 + ".onnx"],
        ["compile", "vit_tiny_patch16_224", "--weights", "x" * 5000, "--quiet"],
        ["compile", "digits", "--calibration", "x" * 5000, "--quiet"],
    ],
)
def test_a_name_of_5000_letters(words: list[str]) -> None:
    done = CliRunner().invoke(main, words)
    assert done.exit_code == 2, done.stderr
    assert done.stderr.startswith("error: xxx")
    assert "File name too long" in done.stderr
    assert len(done.stderr) < 1000


def test_a_zero_byte_in_a_name() -> None:
    done = CliRunner().invoke(main, ["inspect", "a\0b"])
    assert done.exit_code == 2
    assert "zero byte" in done.stderr
