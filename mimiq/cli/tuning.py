"""``bench --tune``: every backend of this host's CPU in turns, and the fastest written down."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mimiq.cli import choices
from mimiq.cli.output import print_json, show, show_report, shown, working
from mimiq.errors import BadInput, MimiqError

if TYPE_CHECKING:
    from mimiq.progress import Stage
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.latency.tuned import Measured


def tune_and_show(
    path: Path, batches: Sequence[int], threads: int | None, seconds: float, say: choices.Say
) -> None:
    """Measure the bundle, write down what is fastest, and show it.

    Raises:
        BadInput: it is no bundle, or what was measured cannot be written beside it.
    """
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.latency import tuned
    from mimiq.runtime.report.building import build_report

    if path.is_file():
        raise BadInput(f"{path} is no bundle.", "Give the folder of one.")
    bundle = Bundle(path)
    with working(), shown_progress(say.quiet).stage("latency") as stage:
        found, left_out = _tuned(bundle, batches, threads, seconds, stage)
        place = tuned.keep(bundle, found)
    if say.json:
        print_json({"bundle": str(path), "kept": str(place), **found.to_json()})
        return
    show_report(
        build_report(
            model=bundle.manifest.model,
            precision=bundle.precision.to_json(),
            latency=found.rows,
            notes=[*found.notes, *left_out],
        )
    )
    count = f"{found.threads} thread{'s' if found.threads > 1 else ''}"
    show("", f"Fastest here with {count}: {found.best}. Written to {shown(place)}.")


def _tuned(
    bundle: Bundle, batches: Sequence[int], threads: int | None, seconds: float, stage: Stage
) -> tuple[Measured, list[str]]:
    """What was measured, and what is said of the network without quantisation if it is missing."""
    from mimiq.runtime.latency.tune import tune

    with tempfile.TemporaryDirectory() as folder:
        rival, missing = _unquantized(bundle, Path(folder) / "unquantized.onnx")
        found = tune(
            bundle, batches, threads=threads, unquantized=rival, budget_s=seconds, stage=stage
        )
    return found, missing


def _unquantized(bundle: Bundle, path: Path) -> tuple[Path | None, list[str]]:
    said = "The network without quantisation was not measured: "
    try:
        from mimiq.export.forms import to_float
    except ImportError:
        return None, [f"{said}that needs the extra compile."]
    try:
        return to_float(bundle.model_path, path), []
    except MimiqError as error:
        return None, [said + error.problem]
