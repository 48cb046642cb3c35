"""What a person sees of a running stage."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from mimiq.progress import Progress


@pytest.mark.parametrize("width", [60, 80, 120])
def test_counts_and_times_are_whole_in_a_narrow_terminal(width: int) -> None:
    progress, out = Progress(), io.StringIO()
    progress.console = Console(file=out, width=width, force_terminal=True, color_system=None)
    with progress.stage("synthesize", 960) as stage:
        stage.update(960, "7.6 steps/s, similarity 0.43, label 0.81")
    *_, last = (line for line in out.getvalue().splitlines() if line.strip("\x1b[?25h"))
    assert "960/960" in last
    assert last.count("0:00:00") == 2


def test_a_note_is_taken_literally() -> None:
    progress, out = Progress(), io.StringIO()
    progress.console = Console(file=out, width=80)
    progress.note("calibration images: 3 in photos[bold]")
    assert out.getvalue() == "calibration images: 3 in photos[bold]\n"
