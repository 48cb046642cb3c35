"""``models``: the names that the compiler takes."""

from __future__ import annotations

import fnmatch

import click

from mimiq.cli import options
from mimiq.cli.commanding import Command
from mimiq.cli.output import print_json, show, table
from mimiq.cli.streams import naming_standard_output
from mimiq.libraries import require_compile_extra
from mimiq.models.names import EMBEDDED, SHORT_NAMES, TORCHVISION, described_names


@click.command(
    cls=Command,
    short_help="The models that can be compiled.",
    examples=(
        ("mimiq models", "short names"),
        ("mimiq models 'vit_small*'", "timm's names that match"),
    ),
)
@click.argument("pattern", required=False)
@options.json_option
def models(pattern: str | None, json: bool) -> None:
    """List the models that can be compiled: short names, and those of timm that match PATTERN.

    PATTERN is a shell-style pattern such as 'vit_small*'; '*' lists all.
    """
    require_compile_extra()
    short = {EMBEDDED: "embedded, 10 classes, 32×32 pixels", **SHORT_NAMES}
    names = [] if pattern is None else fnmatch.filter(described_names(), pattern)
    if json:
        print_json({"short": short, "timm": names})
        return
    if pattern is None:
        show(table(("short name", "timm's name"), list(short.items())))
        show("", "The ViT, BEiT, EVA and Swin of timm serve as well: mimiq models 'vit_*'")
        show(f"So do torchvision's {', '.join(TORCHVISION)}, and folders of transformers.")
    elif names:
        with naming_standard_output():
            click.echo("\n".join(names))
    else:
        show(f"No network of timm that can be compiled matches {pattern!r}.")
