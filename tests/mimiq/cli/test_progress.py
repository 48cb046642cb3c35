"""What a person sees of a running stage, in a terminal and in a log."""

from __future__ import annotations

import errno
import io
import sys
import threading
import time

import pytest
from click.testing import CliRunner
from rich.console import Console

from mimiq.cli import main
from mimiq.cli.failures import print_message
from mimiq.cli.terminal_progress import (
    BarProgress,
    LoggedStage,
    LogProgress,
    duration,
    shown_progress,
)
from mimiq.progress import Progress


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.seconds = 100.0

    def __call__(self) -> float:
        return self.seconds


class TestTerminal:
    @pytest.mark.parametrize("width", [60, 80, 120])
    def test_counts_and_times_are_whole_where_it_is_narrow(self, width: int) -> None:
        out = io.StringIO()
        console = Console(file=out, width=width, force_terminal=True, color_system=None)
        with BarProgress(console).stage("synthesize", 960) as stage:
            stage.update(960, "similarity 0.43, label 0.81")
        *_, last = (line for line in out.getvalue().splitlines() if line.strip("\x1b[?25h"))
        assert "960/960, 0 s so far" in last
        assert width < 80 or "similarity 0.43, label 0.81" in last

    def test_rates_and_the_time_left_are_said(self) -> None:
        out, clock = io.StringIO(), Clock()
        console = Console(file=out, width=80, force_terminal=True, color_system=None)
        console.get_time = clock
        with BarProgress(console).stage("distill", 600) as stage:
            for step in (10, 20, 30):
                clock.seconds += 20
                stage.update(step, "loss 0.3100, held-out 0.3300")
        said = [
            line for line in out.getvalue().replace("\r", "\n").splitlines() if "30/600" in line
        ]
        assert "30/600, 0.5/s, 1 min so far, 19 min left loss 0.31" in said[-1]

    def test_what_is_not_told_stays(self) -> None:
        out = io.StringIO()
        console = Console(file=out, width=120, force_terminal=True, color_system=None)
        with BarProgress(console).stage("accuracy", 4) as stage:
            stage.update(text="on the GPU")
            stage.update(3)
        *_, last = (line for line in out.getvalue().splitlines() if line.strip("\x1b[?25h"))
        assert "3/4" in last
        assert "on the GPU" in last

    def test_a_note_is_taken_literally(self) -> None:
        out = io.StringIO()
        BarProgress(Console(file=out, width=80)).note("calibration images: 3 in photos[bold]")
        assert out.getvalue() == "calibration images: 3 in photos[bold]\n"


class TestLog:
    def test_a_running_stage_says_how_far_it_is_and_how_long_it_will_take(self) -> None:
        clock = Clock()
        stage = LoggedStage("distill", 600, clock)
        clock.seconds += 90
        assert stage.line() == "distill: 1 min 30 s so far"
        stage.update(100, "loss 0.40")
        clock.seconds += 100
        stage.update(150, "loss 0.31")
        assert stage.line() == (
            "distill: 150 of 600 (25 %), 0.5/s, 3 min 10 s so far, about 15 min left; loss 0.31"
        )
        clock.seconds += 60  # it is silent and goes on
        assert "about 14 min left" in stage.line()
        assert stage.last_line() == "distill: done in 4 min 10 s; loss 0.31"

    def test_what_an_earlier_run_did_is_not_taken_for_speed(self) -> None:
        clock = Clock()
        stage = LoggedStage("distill", 600, clock)
        clock.seconds += 1
        stage.update(500)
        clock.seconds += 50
        stage.update(550)
        assert stage.seconds_left() == 50

    def test_a_total_may_be_told_late_and_steps_may_be_uncountable(self) -> None:
        clock = Clock()
        stage = LoggedStage("check", now=clock)
        clock.seconds += 20
        stage.update(text="asking")
        assert stage.line() == "check: 20 s so far; asking"
        stage.update(16, total=64)
        assert (
            stage.line() == "check: 16 of 64 (25 %), 0.8/s, 20 s so far, about 1 min left; asking"
        )

    def test_lines_come_while_one_call_lasts(self) -> None:
        told: list[str] = []
        twice = threading.Event()

        def say(line: str) -> None:
            told.append(line)
            if len(told) == 2:
                twice.set()

        with LogProgress(every_s=0.01, say=say).stage("engine") as stage:
            stage.update(text="TensorRT-RTX")
            assert twice.wait(10)
        assert told[0].startswith("engine: 0 s so far")
        assert told[-1] == "engine: done in 0 s; TensorRT-RTX"

    def test_a_stage_that_fails_is_not_said_to_be_done(self) -> None:
        told: list[str] = []
        with pytest.raises(ValueError, match="broken"), LogProgress(say=told.append).stage("load"):
            raise ValueError("broken")
        assert told == []

    @pytest.mark.parametrize(
        ("seconds", "words"),
        [(0.4, "0 s"), (59.6, "1 min"), (200, "3 min 20 s"), (3600, "1 h"), (7500, "2 h 5 min")],
    )
    def test_durations(self, seconds: float, words: str) -> None:
        assert duration(seconds) == words


class TestNowhereToTell:
    """A terminal that was closed, a log on a full disk: the work is not ended by it."""

    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise OSError(errno.EIO, "Input/output error")

        flush = close = lambda _: None  # type: ignore[assignment]

    @pytest.mark.parametrize("terminal", [False, True])
    def test_the_work_goes_on(self, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
        stream = self.Closed()
        monkeypatch.setattr(stream, "isatty", lambda: terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        monkeypatch.setenv("TERM", "xterm")
        progress = shown_progress()
        assert isinstance(progress, BarProgress if terminal else LogProgress)
        progress.note("a note")
        with progress.stage("load", 2) as stage:
            stage.update(1, "one")
            time.sleep(0.15)  # drawn once more meanwhile
        print_message("a warning", "yellow")


class TestWhichOne:
    def test_no_terminal_gets_lines_and_quiet_gets_nothing(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for quiet in (False, True):
            progress = shown_progress(quiet)
            progress.note("a note")
            with progress.stage("load"):
                pass
            said = capsys.readouterr()
            assert said.out == ""
            assert said.err.splitlines() == ([] if quiet else ["a note", "load: done in 0 s"])

    def test_functions_are_silent_unless_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        progress = Progress()
        progress.note("a note")
        with progress.stage("load", 3) as stage:
            stage.update(1, "one")
        assert capsys.readouterr() == ("", "")

    def test_standard_output_is_for_the_result(self, tmp_path: object) -> None:
        arguments = ["synthesize", "digits", "--method", "noise", "--images", "2"]
        answer = CliRunner().invoke(main, [*arguments, "-o", f"{tmp_path}/set"])
        assert "load: done in" in answer.stderr
        assert "load" not in answer.stdout
