"""Every writer, killed at every one of its file operations: the old or the new, and never less.

And every writer before a power cut: no name is given to what is not on the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killing import every_moment, temporaries, unsynced
from writers import WRITERS, a_finished_stage, a_folder, files_added_to_a_bundle

from mimiq import durable
from mimiq.calibrate import CalibrationSet, gaussian_noise
from mimiq.files import write_whole
from mimiq.runtime import bundle_writing
from mimiq.runtime.preprocessing import Preprocessing

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="kills processes that it forks")

KINDS = pytest.mark.parametrize("kind", WRITERS)


@KINDS
def test_killed_at_every_moment(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind](tmp_path)
    moments = every_moment(writer.prepare, writer.act, writer.check)
    print(f"{kind}: killed at {moments} moments")
    assert moments >= writer.moments
    assert not temporaries(tmp_path)


def test_a_folder_without_the_system_s_help(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(durable, "_exchange_at_once", lambda *_: False)
    writer = a_folder(tmp_path)
    assert every_moment(writer.prepare, writer.act, writer.check) >= writer.moments
    assert not temporaries(tmp_path)


def test_a_bundle_whose_folder_must_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its files are moved in one by one; who opens it next finishes what was begun."""
    monkeypatch.setattr(bundle_writing, "_is_fixed", lambda _: True)
    writer = files_added_to_a_bundle(tmp_path)
    assert every_moment(writer.prepare, writer.act, writer.check) >= writer.moments
    assert not temporaries(tmp_path)
    assert unsynced(writer.act) == []


@KINDS
def test_no_name_comes_before_its_content(kind: str, tmp_path: Path) -> None:
    writer = WRITERS[kind](tmp_path)
    writer.prepare()
    assert unsynced(writer.act) == []
    writer.check()


@pytest.mark.parametrize("fault", ["content", "name", "place"])
def test_the_watch_sees_what_a_power_cut_would_take(
    fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "file"

    def forgetful(path: Path) -> None:
        kind = "name" if path.is_dir() else "content"
        if kind != fault:
            sync(path)

    import mimiq.files

    sync = durable.sync
    monkeypatch.setattr(mimiq.files, "sync", forgetful)
    act: Any = (
        (lambda: file.write_text("new")) if fault == "place" else lambda: write_whole(file, "new")
    )
    found = " ".join(unsynced(act))
    words = {"content": "before the content", "name": "never synced", "place": "its own name"}
    assert words[fault] in found


def test_the_result_is_that_of_an_undisturbed_run(tmp_path: Path) -> None:
    writer = a_finished_stage(tmp_path)
    writer.prepare()
    writer.act()
    found = next((tmp_path / "cache").glob("noise-*")) / "set"
    alone = gaussian_noise(Preprocessing(image_size=16), 8, 1, tmp_path / "alone")
    assert np.array_equal(CalibrationSet.open(found).images(), alone.images())
