"""Reports: complete as data, readable as text, and plain about bad news."""

from __future__ import annotations

import json
from dataclasses import replace

from reports import COMPARISON, report, row
from rich.console import Console

from mimiq.runtime.evaluation.held_out import Cost, HeldOut
from mimiq.runtime.report.report import Report, Size, Tuning
from mimiq.runtime.report.terminal import render


def text(data: Report, width: int = 140) -> str:
    console = Console(width=width, record=True, quiet=True, force_terminal=False)
    with console.capture() as capture:
        console.quiet = False
        console.print(render(data))
    return capture.get()


def test_a_report_survives_json_and_shows_its_numbers() -> None:
    tuning = Tuning(100, 0.5, 0.25, 50, ((0, 0.5), (50, 0.25)), agreement=0.9, seconds=3.5)
    cost = HeldOut({"synthetic": Cost(48, 47, 0.06, 0.01)})
    whole = replace(report(), tuning=tuning, seconds=60.5, held_out=cost, simulation=COMPARISON)
    data = Report.from_json(json.loads(json.dumps(whole.to_json(), allow_nan=False)))
    assert data == whole
    shown = text(data)
    for number in ("79.40 %", "78.80 %", "-0.60 points", "98.00 %", "3.83× smaller", "1.50×"):
        assert number in shown, shown
    assert "Imaginary 9000" in shown
    assert "500 images" in shown
    assert "faster than w8a8" not in shown


def test_no_figure_is_cut_in_a_narrow_terminal() -> None:
    cost = HeldOut({"synthetic": Cost(48, 47, 0.06, 0.01)})
    shown = text(replace(report(), held_out=cost, simulation=COMPARISON), width=80)
    assert "…" not in shown
    for number in ("79.40 %", "78.80 %", "23.00 MB", "97.9 %", "1.23 %", "13.33", "1.50×"):
        assert number in shown, shown


def test_an_engine_alone_has_no_column_of_ratios() -> None:
    assert "speed against fp32" in text(report())
    assert "speed against" not in text(report(latency=[row("w8a8", 1, 1.0), row("w8a8", 8, 1.0)]))


def test_the_interval_is_that_of_the_difference() -> None:
    low, high = COMPARISON.drop_interval
    assert f"[{-high:+.2f}, {-low:+.2f}]" in text(report())
    assert -high < -0.6 < -low


def test_slower_low_precision_is_said_plainly() -> None:
    latency = [row("fp32", 1, 1.0), row("w8a8", 1, 0.8), row("fp32", 8, 1.0), row("w8a8", 8, 1.3)]
    notes = report(latency=latency).notes
    assert any(
        "fp32 is faster than w8a8 on this host" in n and "batch 1 (0.80×)" in n for n in notes
    )
    assert not any("batch 1 (0.80×), 8" in n for n in notes)


def test_an_undecided_ratio_is_not_called_slower() -> None:
    undecided = row("w8a8", 1, 0.99, speedup_quartiles=(0.9, 1.05))
    assert not any(
        "faster" in note for note in report(latency=[row("fp32", 1, 1), undecided]).notes
    )


def test_other_bad_news() -> None:
    data = report(
        model={"name": "deit_t", "untrained": True},
        latency=[row("fp32", 1, 1.0, stable=False, runs=6)],
        fallbacks=["blocks.0.attn runs in fp16: head size 80 has no int8 kernel"],
        notes=["said by the caller"],
    )
    notes = "\n".join(data.notes)
    assert data.notes[0] == "said by the caller"
    assert "random" in notes
    assert "had not settled" in notes
    assert "6 runs" in notes
    shown = text(data)
    assert "UNTRAINED" in shown
    assert "head size 80" in shown


def test_a_report_with_nothing_measured() -> None:
    data = report(accuracy=None, latency=[], size=Size(), dataset=None)
    assert data.notes == ()
    assert "deit_t → w8a8" in text(data)


def test_entries_that_this_version_does_not_know_are_kept() -> None:
    data = report().to_json() | {"energy": {"joules": 3}}
    assert Report.from_json(data).to_json() == data
