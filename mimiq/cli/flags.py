"""Parameters that errors name, as the flags of the command line.

Below the command line an error names a parameter between backquotes, alone or with a value:
```backend="ort"```. A person who typed a command reads ``--backend ort`` instead.
"""

from __future__ import annotations

import re
from functools import cache

import click

_PARAMETER = re.compile(r"`(\w+)(?:=([^`]*))?`")
_ALIASES = {"overwrite": "force"}  # where Python's name differs from the command line's


def with_flags(text: str) -> str:
    """The text with each parameter as its flag; what is no parameter of any command stays."""
    return _PARAMETER.sub(_flag, text)


def _flag(match: re.Match[str]) -> str:
    name, value = match[1], match[2]
    option = _options().get(_ALIASES.get(name, name))
    if option is None:
        return match[0]
    if value == "False" and option.secondary_opts:
        return option.secondary_opts[0]
    if value in (None, "True"):
        return option.opts[0]
    return f"{option.opts[0]} {value.strip(chr(34))}"


@cache
def _options() -> dict[str, click.Option]:
    """Every command's options by the names of their parameters."""
    from mimiq.cli import main

    return {
        parameter.name: parameter
        for command in main.commands.values()
        for parameter in command.params
        if isinstance(parameter, click.Option) and parameter.name is not None
    }
