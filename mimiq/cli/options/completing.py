"""What a shell offers for the name of a network."""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


def complete_model(
    _context: click.Context, _parameter: click.Parameter, begun: str
) -> list[CompletionItem]:
    """Names of networks that begin so; folders where it looks like a path, or no name does."""
    from mimiq.models.names import EMBEDDED, SHORT_NAMES, TORCHVISION, described_names

    folders = [CompletionItem(begun, type="dir")]
    if begun.startswith((".", "/", "~")):
        return folders
    names = [EMBEDDED, *SHORT_NAMES, *TORCHVISION]
    if begun:  # timm's hundreds only once something is typed
        names += described_names()
    return [CompletionItem(name) for name in names if name.startswith(begun)] or folders
