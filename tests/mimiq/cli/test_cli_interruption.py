"""A full disk and Ctrl-C in the middle: what is whole stays, and the command goes on."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from compiled import Fails

from mimiq.cli import main
from mimiq.errors import EnvironmentLacks


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size; skips where this user may not mount one."""
    folder.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    command = [mount, "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no file system may be mounted here")
    try:
        yield folder
    finally:
        # Lazily: the traceback of what failed there may still hold a file open.
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


class TestFullDisk:
    """A file system of 100 kB; 64 images of 32 pixels are 197 kB."""

    def test_of_the_cache(self, fails: Fails, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", "100k") as disk:
            said = fails(
                "digits",
                *("--calibration", "noise", "--images", 64, "--cache-dir", disk / "cache"),
                exit_code=EnvironmentLacks.exit_code,
            )
        assert "full" in said
        assert "Free some space" in said

    def test_of_a_calibration_set_then_the_rest_is_made(self, tmp_path: Path) -> None:
        with small_disk(tmp_path / "disk", "600k") as disk:
            command = ["synthesize", "digits", "--method", "noise", "--images", "70", "--quiet"]
            ballast = disk / "ballast"
            ballast.write_bytes(bytes(390_000))  # room for the first batch, not for the rest
            answer = CliRunner().invoke(main, [*command, "-o", str(disk / "set")])
            assert answer.exit_code == EnvironmentLacks.exit_code
            assert "is full" in answer.stderr
            first = disk / "set" / "batch-00000.npz"
            made = first.stat().st_mtime_ns
            ballast.unlink()
            answer = CliRunner().invoke(main, [*command, "-o", str(disk / "set")])
            assert answer.exit_code == 0, answer.stderr
            assert first.stat().st_mtime_ns == made

    def test_of_a_checkpoint(self, fails: Fails, tmp_path: Path) -> None:
        """torch.save hides the operating system's error number."""
        with small_disk(tmp_path / "disk", "1m") as disk:
            said = fails(
                "digits",
                *("--calibration", "noise", "--images", 8, "--steps", 51),
                *("--cache-dir", disk / "cache"),
                exit_code=EnvironmentLacks.exit_code,
            )
        assert f"The disk is full: {disk / 'cache'}" in said


def interrupted_once(command: list[str], is_time: Callable[[], bool]) -> tuple[int, str]:
    """Run a command and press Ctrl-C when it is time: its exit status and standard error."""
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        # A run in the background inherits that Ctrl-C is ignored.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    deadline = time.monotonic() + 240
    while not is_time() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    return process.returncode, said


@pytest.mark.slow
class TestInterruption:
    """Ctrl-C, then the same command again: what was finished is not made twice."""

    def test_of_synthesis(self, tmp_path: Path) -> None:
        out = tmp_path / "set"
        command = [sys.executable, "-m", "mimiq.cli", "synthesize", "digits", "-o", str(out)]
        command += ["--images", "24", "--recipe", "cpu"]  # two batches
        first = out / "batch-00000.npz"
        status, said = interrupted_once(command, first.exists)
        assert status == 130
        assert "interrupted; what is finished is kept, run the same command again" in said
        assert "Traceback" not in said
        assert not (out / "batch-00001.npz").exists()
        made = first.stat().st_mtime_ns

        again = CliRunner().invoke(main, command[3:])
        assert again.exit_code == 0, again.stderr
        assert "going on, 1 of 2 batches done" in again.stderr
        assert first.stat().st_mtime_ns == made

    def test_of_distillation(self, tmp_path: Path) -> None:
        cache, out = tmp_path / "cache", tmp_path / "tuned"
        command = [sys.executable, "-m", "mimiq.cli", "distill", "digits", "-o", str(out)]
        command += ["--calibration", "noise", "--images", "8", "--steps", "100"]
        command += ["--cache-dir", str(cache)]

        def checkpointed() -> bool:
            return any(cache.glob("tuned-*.partial/checkpoint.pt"))

        status, said = interrupted_once(command, checkpointed)
        assert status == 130, said
        assert "run the same command again" in said
        assert not out.exists()
        (checkpoint,) = cache.glob("tuned-*.partial/checkpoint.pt")
        state = torch.load(checkpoint, weights_only=True)
        assert 0 < state["step"] < 100
        (fitted,) = cache.glob("fitted-*/contents.json")
        made = fitted.stat().st_mtime_ns

        seconds = 1000.0  # a run that goes on adds its own time to the saved one
        torch.save({**state, "seconds": seconds}, checkpoint)
        again = CliRunner().invoke(main, [*command[3:], "--json"])
        assert again.exit_code == 0, again.stderr
        result = json.loads(again.stdout)["tuning"]["result"]
        assert result["steps"] == 100
        assert result["seconds"] > seconds
        assert fitted.stat().st_mtime_ns == made
        assert f"fitted: reusing {fitted.parent.name}" in again.stderr
        assert result["history"][: len(state["history"])] == [list(p) for p in state["history"]]
