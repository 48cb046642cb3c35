"""``models``: the names that the compiler takes."""

from __future__ import annotations

from fnmatch import fnmatchcase

import click

from mimiq.cli import options
from mimiq.cli.failures import Command
from mimiq.cli.output import print_json, show, table, working
from mimiq.cli.preflight import require_compile_extra

# timm's files whose networks the families here describe.
_TIMM_MODULES = ("vision_transformer", "deit")


@click.command(cls=Command, short_help="The models that can be compiled.")
@click.argument("pattern", required=False)
@options.json_option
def models(pattern: str | None, json: bool) -> None:
    """List the models that can be compiled: short names, and those of timm that match PATTERN.

    PATTERN is a shell-style pattern such as 'vit_small*'; '*' lists all.
    """
    require_compile_extra()
    with working():
        from mimiq.models import SHORT_NAMES
        from mimiq.models.loading import EMBEDDED

        short = {EMBEDDED: "embedded, 10 classes, 32×32 pixels", **SHORT_NAMES}
        names = _timm_names(pattern) if pattern is not None else []
    if json:
        print_json({"short": short, "timm": names})
        return
    if pattern is None:
        show(table(("short name", "timm's name"), list(short.items())))
        show("", "Any ViT or DeiT of timm serves as well: mimiq models 'vit_*'")
    elif names:
        click.echo("\n".join(names))
    else:
        show(f"No ViT or DeiT of timm matches {pattern!r}.")


def _timm_names(pattern: str) -> list[str]:
    import timm

    names = {name for module in _TIMM_MODULES for name in timm.list_models(module=module)}
    return sorted(name for name in names if fnmatchcase(name, pattern))
