"""Results on standard output: tables for people, JSON for machines, and nothing else."""

from __future__ import annotations

import contextlib
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mimiq.cli.flags import with_flags
from mimiq.cli.streams import naming_standard_output, printable_json, standard_error
from mimiq.errors import CELL, shortened

if TYPE_CHECKING:
    from rich.console import RenderableType

    from mimiq.runtime.report.report import Report

_PIPED_WIDTH = 140  # a pipe has no width; tables must not be cut to 80 columns in a log


@contextlib.contextmanager
def working() -> Iterator[None]:
    """Whatever a library prints during the work goes to standard error."""
    with contextlib.redirect_stdout(standard_error()):
        yield


def print_json(data: Any) -> None:
    unicode = (sys.stdout.encoding or "utf-8").lower().replace("-", "") == "utf8"
    with naming_standard_output():
        click.echo(printable_json(json.dumps(data, indent=2, ensure_ascii=not unicode)))


def show(*parts: RenderableType) -> None:
    """Print tables and lines for people; text is taken literally."""
    from mimiq.cli.consoles import PlainConsole

    width = None if sys.stdout.isatty() else _PIPED_WIDTH
    console = PlainConsole(width=width, highlight=False, markup=False, soft_wrap=False)
    with naming_standard_output():
        for part in parts:
            console.print(part)


def show_report(report: Report) -> None:
    """A report's tables; its notes name parameters, which are shown as flags."""
    from mimiq.runtime.report.terminal import render

    show(render(replace(report, notes=tuple(with_flags(note) for note in report.notes))))


def table(headings: Sequence[str], rows: Sequence[Sequence[object]], title: str = "") -> Any:
    """A plain table; every cell is taken literally, and cut where it is very long."""
    from rich.table import Table
    from rich.text import Text

    built = Table(
        title=shortened(title, CELL) or None,
        title_justify="left",
        box=None,
        pad_edge=False,
        padding=(0, 2, 0, 0),
        show_header=any(headings),
    )
    for heading in headings:
        built.add_column(heading, overflow="fold")
    for row in rows:
        built.add_row(*(Text(shortened(str(cell), CELL)) for cell in row))
    return built


def shown(path: Path) -> Path:
    """The path as a person would write it here: relative where it lies below this folder."""
    absolute, here = path.absolute(), Path.cwd()
    return absolute.relative_to(here) if absolute.is_relative_to(here) else absolute


def size(count: int) -> str:
    """Bytes for people: ``512 B``, ``3.1 kB``, ``0.67 MB`` from 100 kB on."""
    if count < 1000:
        return f"{count} B"
    return f"{count / 1e3:.1f} kB" if count < 100_000 else f"{count / 1e6:.2f} MB"


def next_commands(commands: Mapping[str, Sequence[object]]) -> str:
    """Commands to try next, quoted for a shell, one a line."""
    lines = [(shlex.join(str(part) for part in command), why) for why, command in commands.items()]
    widest = max(len(line) for line, _ in lines)
    return "\n".join(f"  {line:<{widest}}  {why}" for line, why in lines)
