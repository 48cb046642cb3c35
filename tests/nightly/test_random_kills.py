"""A compilation killed at random moments, again and again: its end is that of one never killed.

MIMIQ_KILLS=200 pytest -n 0 --nightly tests/nightly/test_random_kills.py
"""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from figures import record

from mimiq.durable import is_temporary
from mimiq.runtime.bundle import Bundle

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
]

KILLS = int(os.environ.get("MIMIQ_KILLS", "200"))
# All stages: images synthesised in two batches, the fit, a distillation with checkpoints, graphs.
COMPILE = (
    *("digits", "--int8", "--recipe", "fast", "--images", "24", "--steps", "120"),
    *("--no-bench", "--target", "ort", "--quiet", "--force"),
)


def begun(out: Path, cache: Path) -> int:
    """Compile in a forked child, which has all libraries loaded; its process id."""
    child = os.fork()
    if child == 0:
        try:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, 1)
            os.dup2(os.open(str(cache.parent / "said"), os.O_WRONLY | os.O_CREAT, 0o666), 2)
            from mimiq.cli import compile_main

            words = [*COMPILE, "-o", str(out), "--cache-dir", str(cache)]
            compile_main.main(words, standalone_mode=False)
        except BaseException:
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return child


def ended(child: int, within: float | None = None) -> bool:
    """Wait for a child; whether it ended by itself, well, and was not killed for its time."""
    deadline = None if within is None else time.monotonic() + within
    while True:
        done, status = os.waitpid(child, 0 if deadline is None else os.WNOHANG)
        if done:
            assert os.waitstatus_to_exitcode(status) == 0
            return True
        if deadline is not None and time.monotonic() >= deadline:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return False
        time.sleep(0.002)


def graphs_of(bundle: Path) -> dict[str, str]:
    Bundle(bundle)  # every hash
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in bundle.glob("*.onnx")
    }


def test_random_kills(tmp_path: Path) -> None:
    import mimiq.compiler
    import mimiq.export
    import mimiq.synthesis.mimiq  # noqa: F401  loaded once, before the forks

    generator = random.Random(0)
    out = tmp_path / "user" / "digits.mimiq"
    out.parent.mkdir()
    started = time.monotonic()
    assert ended(begun(out, tmp_path / "cache"))
    whole_s = time.monotonic() - started
    wanted = graphs_of(out)
    shutil.rmtree(out)
    shutil.rmtree(tmp_path / "cache")
    kills = ends = 0
    begun_at = time.monotonic()
    while kills < KILLS:
        # Up to six kills a compilation, of what was left; then it ends, and all begins anew.
        for _ in range(6):
            if kills == KILLS or ended(
                begun(out, tmp_path / "cache"), generator.uniform(0, whole_s)
            ):
                break
            kills += 1
            if out.exists():
                assert graphs_of(out) == wanted
            for path in out.parent.iterdir():
                assert path == out or is_temporary(path.name), path
        assert ended(begun(out, tmp_path / "cache"))
        ends += 1
        assert graphs_of(out) == wanted
        assert [path.name for path in out.parent.iterdir()] == [out.name]
        assert not list((tmp_path / "cache").glob("*.partial"))
        shutil.rmtree(tmp_path / "cache")
        shutil.rmtree(out)
    record(
        "kills",
        f"MIMIQ_KILLS={KILLS} pytest -n 0 --nightly tests/nightly/test_random_kills.py",
        {
            "kills": kills,
            "compilations": ends,
            "same_result": ends,
            "seconds_of_one": round(whole_s, 1),
            "seconds": round(time.monotonic() - begun_at),
        },
    )
