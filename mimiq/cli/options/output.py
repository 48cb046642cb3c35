"""Options that say where results go, and how a command speaks."""

from __future__ import annotations

from collections.abc import Callable

from mimiq.cli.choices import (
    OutChoice,
    Say,
)
from mimiq.cli.options.grouping import Function, group, option
from mimiq.cli.parameters import PATH

cache_option = option(
    "Output",
    "--cache-dir",
    type=PATH,
    help="Where finished stages are kept.  [default: $MIMIQ_CACHE, or the user's cache folder]",
)

dry_run_option = option(
    "Output",
    "--dry-run",
    is_flag=True,
    help="Say what would be done and about how long it takes on this host, and do none of it.",
)


def out_options(default: str) -> Callable[[Function], Function]:
    """Where the result goes; ``default`` is its name where none is given, in this folder."""
    return group(
        "output",
        OutChoice,
        option(
            "Output",
            "-o",
            "--out",
            type=PATH,
            help=f"Where to write the result.  [default: {default}, in this folder]",
        ),
        option(
            "Output", "--force", is_flag=True, help="Replace an existing result of the same kind."
        ),
    )


say_options = group(
    "say",
    Say,
    option("Output", "--json", is_flag=True, help="Print the result as JSON on standard output."),
    option("Output", "--quiet", is_flag=True, help="No progress on standard error."),
)

json_option = option(
    "Output", "--json", is_flag=True, help="Print the result as JSON on standard output."
)
