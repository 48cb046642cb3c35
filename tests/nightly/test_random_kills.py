"""A compilation killed at random moments, again and again: its end is that of one never killed.

MIMIQ_KILLS=200 pytest -n 0 --nightly tests/nightly/test_random_kills.py
"""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from compilations import begun, ended, graphs_of, load_libraries
from figures import record

from mimiq.durable import is_temporary

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks"),
]

KILLS = int(os.environ.get("MIMIQ_KILLS", "200"))


def test_random_kills(tmp_path: Path) -> None:
    load_libraries()
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
        # Up to twenty kills a compilation, of what was left; then it ends, and all begins anew.
        for _ in range(20):
            moment = generator.uniform(0, whole_s / 3)
            if kills == KILLS or ended(begun(out, tmp_path / "cache"), moment):
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
