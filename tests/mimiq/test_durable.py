"""Which temporary names are of the dead: removed, finished, or left to who writes there."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from mimiq.durable import beside, remove_all_leftovers, remove_leftovers

DAY = 24 * 3600.0


def renamed(path: Path, old: str, new: str) -> Path:
    assert old in path.name
    return path.rename(path.with_name(path.name.replace(old, new)))


def written(target: Path) -> Path:
    made = beside(target)
    made.write_text("half")
    return made


def test_what_this_process_is_writing_stays(tmp_path: Path) -> None:
    made = written(tmp_path / "file")
    remove_leftovers(tmp_path / "file")
    assert made.exists()


def test_a_process_of_the_same_number_before_this_one_is_dead(tmp_path: Path) -> None:
    """In a container every process is number 1."""
    made = written(tmp_path / "file")
    left = made.rename(made.with_name(made.name[:-12] + "0000abcd.tmp"))
    remove_leftovers(tmp_path / "file")
    assert not left.exists()


@pytest.mark.parametrize("age", [DAY / 2, 2 * DAY])
def test_of_other_hosts_only_what_is_old_goes(tmp_path: Path, age: float) -> None:
    made = written(tmp_path / "file")
    host = made.name.split(".")[-2].partition("-")[0]
    other = renamed(made, host, "f" * 6 if host != "f" * 6 else "e" * 6)
    os.utime(other, (time.time() - age, time.time() - age))
    remove_leftovers(tmp_path / "file")
    assert other.exists() == (age < DAY)


def test_a_long_name_s_leftovers_go_too(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 240)
    made = written(target)
    left = made.rename(made.with_name(made.name[:-12] + "0000abcd.tmp"))
    remove_leftovers(target)
    assert not left.exists()


def test_a_long_name_cut_short_is_given_to_nothing(tmp_path: Path) -> None:
    target = tmp_path / ("n" * 240)
    aside = beside(target, "old")
    aside.mkdir()
    left = aside.rename(aside.with_name(aside.name[:-12] + "0000abcd.old"))
    remove_all_leftovers(tmp_path)
    assert left.exists()
    remove_leftovers(target)
    assert target.is_dir()
