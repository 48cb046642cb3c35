"""Every writer on a disk that fills up at each file operation: the old stays, and it says so."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from killing import full_from, temporaries
from writers import WRITERS, Writer

from mimiq.errors import EnvironmentLacks


@pytest.mark.parametrize("kind", WRITERS)
def test_full_from_every_moment(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "fsync", lambda _: None)  # the real disk is not waited for
    writer = WRITERS[kind](tmp_path)
    writer.prepare()
    writer.act()  # what is loaded late is loaded, and compiled, once
    moment = 0
    while error := _full_from(moment, writer):
        assert "disk is full" in error.problem
        assert error.next_step
        writer.check()
        assert not temporaries(tmp_path)
        writer.act()  # there is room again
        writer.check()
        moment += 1
    assert moment >= writer.moments // 2  # the others remove


def _full_from(moment: int, writer: Writer) -> EnvironmentLacks | None:
    """What the writer says; None where it has done its work before this moment."""
    writer.prepare()
    with full_from(moment) as failed:
        try:
            writer.act()
        except EnvironmentLacks as error:
            assert failed
            return error
    assert not failed, "it found no space, and did not say so"
    return None
