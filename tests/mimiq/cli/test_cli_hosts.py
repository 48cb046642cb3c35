"""Odd hosts and streams: one sentence that says so, and never a traceback."""

from __future__ import annotations

import errno
import json
import pickle
import subprocess
import sys
from pathlib import Path

import platformdirs
import pytest
from click.testing import CliRunner
from compiled import INT8, Compile

from mimiq.cli import main
from mimiq.cli.failures import explained
from mimiq.errors import BadInput, EnvironmentLacks
from mimiq.runtime import open_bundle

FULL = Path("/dev/full")


@pytest.mark.skipif(not FULL.exists(), reason="no device that is full")
@pytest.mark.parametrize("words", [["--help"], ["compile", "--help"], ["--version"]])
def test_help_into_a_full_stream(words: list[str]) -> None:
    command = [sys.executable, "-m", "mimiq.cli", *words]
    with FULL.open("w") as stream:
        done = subprocess.run(command, stdout=stream, stderr=subprocess.PIPE, text=True)
    assert done.returncode not in (0, 70)
    assert "Traceback" not in done.stderr


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
    ],
)
def test_memory_that_ran_out_is_no_defect(error: Exception) -> None:
    found = explained(error)
    assert isinstance(found, EnvironmentLacks)
    assert "memory" in found.problem


def test_too_many_open_files_are_no_defect() -> None:
    found = explained(OSError(errno.EMFILE, "Too many open files"))
    assert isinstance(found, EnvironmentLacks)
    assert "ulimit" in found.next_step


def test_other_errors_are_a_defect() -> None:
    assert explained(RuntimeError("shapes do not match")) is None


def test_a_session_says_that_it_cannot_be_pickled(compile_digits: Compile) -> None:
    with (
        open_bundle(compile_digits(*INT8).path) as session,
        pytest.raises(BadInput, match="pickled"),
    ):
        pickle.dumps(session)
