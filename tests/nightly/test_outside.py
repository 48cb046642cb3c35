"""What the nightly runs hold commands to: that a change outside their folder is seen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.nightly,
    pytest.mark.skipif(sys.platform != "linux", reason="names of open folders, of Linux"),
]


def test_the_watch_sees_what_is_changed_outside(tmp_path: Path) -> None:
    own, other = tmp_path / "own", tmp_path / "other"
    own.mkdir()
    (other / "folder").mkdir(parents=True)
    (own / "link").symlink_to(other)
    program = f"""
import os, shutil, sys
from pathlib import Path
from outside import watch
told = []
watch([Path({str(own)!r})], told.append)
os.chdir({str(own)!r})
Path("mine").write_text("")
os.rename("mine", "still mine")
assert not told, told
Path("link/a").write_text("")
os.rename("still mine", "../other/b")
shutil.rmtree("../other/folder")
print(*told, sep="\\n")
"""
    support = Path(__file__).parents[1] / "support"
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(support)},
    )
    assert done.stdout.splitlines() == [
        *(f"open {other / 'a'}", f"os.rename {other / 'b'}", f"os.rmdir {other / 'folder'}"),
    ], done.stderr
