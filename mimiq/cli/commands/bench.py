"""``bench``: what a bundle's latency is on this host, and whether low precision helped."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.flags import with_flags
from mimiq.cli.output import print_json, show, show_report, table, working
from mimiq.cli.parameters import PATH, Number, Whole
from mimiq.errors import BadInput

if TYPE_CHECKING:
    from mimiq.runtime.latency.measure import LatencyRow


@click.command(
    cls=Command,
    short_help="Latency and throughput of a bundle.",
    examples=(
        ("mimiq bench deit_t-w8a8.mimiq --batches 1,8", "latency and throughput here"),
        ("mimiq bench deit_t-w8a8.mimiq --against fp32.onnx", "in turns with another"),
        ("mimiq bench deit_t-w8a8.mimiq --tune", "which backend is the fastest on this CPU"),
    ),
)
@click.argument("bundle", type=PATH)
@options.option(
    "Measurement",
    "--against",
    type=PATH,
    help="A bundle or ONNX file to take turns with: the ratio is formed pair by pair.",
)
@options.batches_option
@options.backend_option
@options.option(
    "Measurement",
    "--threads",
    type=Whole(1, 1024),
    help="On the CPU; by default all that this process may use. Refused where a "
    "TensorRT engine would run.",
)
@options.option(
    "Measurement",
    "--seconds",
    type=Number(0, 86_400, min_open=True),
    default=20.0,
    show_default=True,
    help="To spend on each batch size.",
)
@options.option(
    "Measurement",
    "--tune",
    is_flag=True,
    help="Measure every backend of this CPU that is installed, also on the network without "
    "quantisation, and write the fastest beside the bundle: auto takes it from then on.",
)
@options.say_options
def bench(
    bundle: Path,
    against: Path | None,
    batches: tuple[int, ...],
    backend: str,
    threads: int | None,
    seconds: float,
    tune: bool,
    say: choices.Say,
) -> None:
    """Measure BUNDLE's latency and throughput, alone or in turns with another.

    End to end first: from an array in memory to an array in memory. Of TensorRT engines also the
    time on the GPU itself, with and without copies and CUDA graphs, in turns with the same network
    in FP16 or with --against, and whether low precision helped.
    """
    from mimiq.cli.terminal_progress import shown_progress
    from mimiq.export.tensorrt.device_times import measure_device, verdict_on
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.gpus import gpu_state
    from mimiq.runtime.latency.measure import Engine, measure
    from mimiq.runtime.report.building import build_report

    if tune:
        from mimiq.cli.tuning import tune_and_show

        if against is not None or backend != choices.BACKENDS[0]:
            raise BadInput("--tune compares all backends.", "Leave --against and --backend out.")
        tune_and_show(bundle, batches, threads, seconds, say)
        return
    opened = Bundle(bundle)
    engines = {}
    if against is not None:
        if not against.is_file() and not against.is_dir():
            problem = "is neither a file nor a folder" if against.exists() else "does not exist"
            raise BadInput(f"--against {against} {problem}.", "Check the path.")
        engines[_name(against, bundle)] = Engine(against, backend, threads)
    engines[_name(bundle, against)] = Engine(bundle, backend, threads)
    with working(), shown_progress(say.quiet).stage("latency") as stage:
        before = gpu_state()
        rows = measure(engines, batches, budget_s=seconds, stage=stage)
        device = measure_device(engines, opened, against, batches, seconds, stage)
        states = {"before": before, "after": gpu_state()}
    report = build_report(
        model=opened.manifest.model,
        precision=opened.precision.to_json(),
        latency=rows,
    )
    lines = [with_flags(line) for line in (*device.left_out, *verdict_on(device))]
    if say.json:
        found = {
            "bundle": str(bundle),
            "against": str(against) if against else None,
            "device": {how: [row.to_json() for row in rows] for how, rows in device.rows.items()},
            "gpu_state": states,
            "verdict": lines,
        }
        print_json(found | report.to_json())
        return
    show_report(report)
    for how, measured in device.rows.items():
        show("", _device_table(how, measured))
    if device.rows:
        show(*(f"GPU {when}: {_words(state)}" for when, state in states.items() if state))
    show(*lines)


def _words(state: Mapping[str, str]) -> str:
    return ", ".join(f"{key} {value}" for key, value in state.items())


def _device_table(how: str, rows: Sequence[LatencyRow]) -> Any:
    headings = ["batch", "engine", "p50 ms", "p90 ms", "p99 ms", "images/s"]
    alone = len({row.engine for row in rows}) == 1
    if not alone:
        headings.append("speed")
    cells = [
        (
            row.batch,
            row.engine,
            *(f"{value:.3f}" for value in (row.p50_ms, row.p90_ms, row.p99_ms)),
            f"{row.throughput:.0f}",
            *(() if alone else (f"{row.speedup:.2f}×",)),
        )
        for row in rows
    ]
    return table(headings, cells, f"Latency, {how}")


def _name(path: Path, other: Path | None) -> str:
    """The path's last part, or the whole of it where the other's is the same."""
    clash = other is not None and other.absolute().name == path.absolute().name
    return str(path) if clash else path.absolute().name
