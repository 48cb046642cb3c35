"""``sweep``: networks × precisions × recipes, compiled as jobs, and compared."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli import choices, options
from mimiq.cli.commanding import Command
from mimiq.cli.commands.compare import Networks, compared, networks_json
from mimiq.cli.output import print_json, show, shown, table, working
from mimiq.cli.parameters import BATCHES, NAMES, PATH, Whole
from mimiq.cli.streams import printable, standard_error, tell
from mimiq.errors import BadInput, MimiqError
from mimiq.files import write_whole

if TYPE_CHECKING:
    from mimiq.sweep.plan import Plan
    from mimiq.sweep.run import Row, Sweep

_PAGE = "index.html"
_AT_ONCE = {"local": 1, "slurm": 32}


@click.command(
    "sweep",
    cls=Command,
    short_help="Many networks at many precisions, as jobs.",
    examples=(
        ("mimiq sweep plan.yaml -o sweep/", "what a file lists"),
        ("mimiq sweep --models digits --precisions int8,int4 -o sweep/", "from flags"),
        ("mimiq sweep plan.yaml -o sweep/ --cluster slurm", "a job a cell, through SLURM"),
    ),
)
@click.argument("plan", type=PATH, required=False)
@options.option("Cells", "--models", type=NAMES, help="Networks, without a PLAN.")
@options.option("Cells", "--precisions", type=NAMES, help="int8, int4, int4-weight-only, wXaY.")
@options.option("Cells", "--recipes", type=NAMES, help="By default the one that suits each.")
@options.option("Cells", "--images", type=Whole(2), metavar="N", help="Of each set.")
@options.option("Cells", "--steps", type=Whole(0), metavar="N", help="Of distillation.")
@options.option("Cells", "--eval", "evaluation", type=PATH, metavar="DIR", help="Labelled images.")
@options.option("Cells", "--batches", type=BATCHES, help="Batch sizes whose latency is measured.")
@options.option(
    "Jobs",
    "--cluster",
    type=click.Choice(sorted(_AT_ONCE)),
    default="local",
    show_default=True,
    help="Processes of this host, or jobs of SLURM.",
)
@options.option(
    "Jobs",
    "--jobs",
    type=Whole(1),
    metavar="N",
    help="So many at a time.  [default: 1 on this host, 32 on SLURM]",
)
@options.option(
    "Output", "-o", "--out", type=PATH, required=True, help="Folder of bundles, logs and the page."
)
@options.say_options
def sweep(
    plan: Path | None,
    models: tuple[str, ...] | None,
    precisions: tuple[str, ...] | None,
    recipes: tuple[str, ...] | None,
    images: int | None,
    steps: int | None,
    evaluation: Path | None,
    batches: tuple[int, ...] | None,
    cluster: str,
    jobs: int | None,
    out: Path,
    say: choices.Say,
) -> None:
    """Compile every network at every precision with every recipe, and compare the bundles.

    PLAN is a YAML file with models, precisions and perhaps recipes, images, steps, eval, batches,
    target, device, seed and slurm. The images of a network are made once. The same command goes on
    with an interrupted sweep, and tries again what failed.
    """
    from mimiq.sweep.run import Sweep, submitter

    given: dict[str, Any] = {
        "models": models,
        "precisions": precisions,
        "recipes": recipes,
        "images": images,
        "steps": steps,
        "eval": str(evaluation) if evaluation else None,
        "batches": batches,
    }
    wanted = _plan(plan, {key: value for key, value in given.items() if value})
    with working():
        submit = submitter(out / "jobs", cluster, wanted.slurm)
        made = Sweep(wanted, out)
        with _shown(made, say.quiet) as tell:
            made.run(submit, jobs or _AT_ONCE[cluster], tell)
        networks = _compared(made)
        page = _write_page(made, networks) if networks else None
    if say.json:
        rows = [{**vars(row), "bundle": str(row.bundle)} for row in made.rows.values()]
        where = str(page) if page else None
        print_json({"cells": rows, "networks": networks_json(networks), "page": where})
    else:
        show(_table(made))
        if page is not None:
            show("", f"Page: {shown(page)}")
    if made.failed:
        raise MimiqError(
            f"{len(made.failed)} of {len(made.rows)} cells failed: {', '.join(made.failed)}.",
            f"What they said is in {out / 'logs'}; the same command tries them again.",
        )


def _plan(path: Path | None, given: dict[str, Any]) -> Plan:
    from mimiq.sweep.plan import make_plan, read_plan

    if path is None:
        return make_plan(given, "The command line")
    if given:
        names = ", ".join(f"--{name}" for name in given)
        raise BadInput(
            f"{names} and a plan exclude each other.", f"Write it into {path}, or leave out PLAN."
        )
    return read_plan(path)


def _compared(made: Sweep) -> Networks:
    """The bundles beside each other; nothing where there are fewer than two."""
    from mimiq.runtime.bundle import Bundle

    if len(made.bundles) < 2:
        return {}
    return compared([Bundle(path) for path in made.bundles], 1.0)


def _write_page(made: Sweep, networks: Networks) -> Path:
    from mimiq.runtime.report.comparison.page import comparison_page

    page = made.out / _PAGE
    write_whole(page, comparison_page(networks, made.failed, "Sweep"))
    return page


def _table(made: Sweep) -> Any:
    """A line a cell."""
    rows = [(row.name, row.state, *_figures(row)) for row in made.rows.values()]
    return table(("cell", "", "size", "top-1", "lost", "took"), rows)


def _figures(row: Row) -> tuple[str, str, str, str]:
    if row.state != "done":
        return "", "", "", row.error
    from mimiq.runtime.bundle import Bundle
    from mimiq.runtime.report.terminal import megabytes

    report = Bundle(row.bundle, verify=False).report
    size = megabytes(report.size.bytes) if report and report.size.bytes else ""
    top1, lost = "", ""
    if report and report.accuracy:
        top1, lost = f"{report.accuracy.accuracy.top1:.2f} %", f"{report.accuracy.drop:.2f} points"
    elif report and report.held_out:
        lost = f"about {report.held_out.points:.2f} points"
    took = f"{row.seconds:.0f} s" if row.seconds is not None else ""
    return size, top1, lost, took


class _shown:
    """The table while the sweep runs: drawn again in a terminal, a line a change in a log."""

    def __init__(self, made: Sweep, quiet: bool) -> None:
        self._made, self._quiet = made, quiet
        self._said: dict[str, str] = {}
        self._live: Any = None

    def __enter__(self) -> Callable[[], None]:
        from rich.live import Live

        from mimiq.cli.consoles import PlainConsole

        console = PlainConsole(file=standard_error())
        if console.is_terminal and not self._quiet:
            self._live = Live(_table(self._made), console=console, transient=True)
            self._live.__enter__()
        return self._tell

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(*error)

    def _tell(self) -> None:
        if self._live is not None:
            self._live.update(_table(self._made), refresh=True)
            return
        for row in self._made.rows.values():
            if not self._quiet and self._said.get(row.name, "waiting") != row.state:
                self._said[row.name] = row.state
                more = ", ".join(filter(None, _figures(row)))
                line = f"{row.name}: {row.state}{f'; {more}' if more else ''}"
                tell(printable(line))
