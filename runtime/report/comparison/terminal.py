"""Bundles side by side as a few short tables for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from mimiq.errors import CELL, shortened
from mimiq.runtime.report.comparison.candidates import Candidate
from mimiq.runtime.report.comparison.choice import Choice
from mimiq.runtime.report.comparison.page import cells, headings, latency_rows, layer_rows

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table
    from rich.text import Text


def render(name: str, found: Sequence[Candidate], choice: Choice) -> RenderableType:
    """The bundles of one network: their tables, and which one to take."""
    from rich.console import Group
    from rich.text import Text

    parts: list[RenderableType] = [_said(name, "bold"), _accuracy(found, choice)]
    columns = ["", *(candidate.name for candidate in found)]
    for title, rows in (
        (
            "Latency: the median time of a run, and speed against full precision",
            latency_rows(found),
        ),
        ("Linears and convolutions by precision", layer_rows(found)),
    ):
        if rows:
            parts += [Text(), _table(columns, rows, title)]
    parts += [Text(), *(_said(f"• {note}") for note in choice.notes)]
    if choice.recommended is not None:
        parts += [_said(f"→ {choice.sentence}", "bold"), _said(f"  {choice.reason}")]
    return Group(*parts)


def _accuracy(found: Sequence[Candidate], choice: Choice) -> Table:
    rows = [
        [candidate.name, *cells(candidate), f"by {beaten}" if beaten else ""]
        for candidate in found
        for beaten in [choice.dominated.get(candidate.name)]
    ]
    table = _table([*headings(found), "dominated"], rows)
    for row, candidate in zip(table.rows, found, strict=True):
        row.style = "dim" if candidate.name in choice.dominated else None
    return table


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], title: str = "") -> Table:
    from rich.table import Table

    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    table.padding = (0, 2, 0, 0)
    for index, heading in enumerate(headings):
        justify: Literal["left", "right"] = "right" if index else "left"
        table.add_column(shortened(heading, CELL), justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(_said(cell) for cell in row))
    return table


def _said(words: str, style: str = "") -> Text:
    """Taken literally, and cut where it is very long: reports may hold texts of any length."""
    from rich.text import Text

    return Text(shortened(words, CELL), style=style)
