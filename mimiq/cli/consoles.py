"""Consoles of Rich's for texts of files."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from mimiq.cli.streams import printable


class PlainConsole(Console):
    """A console of Rich's whose texts hold no commands but its own."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            whole: Any = segment.control or segment.text.isprintable()
            yield segment if whole else segment._replace(text=printable(segment.text))
