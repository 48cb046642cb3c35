"""Options, and decorators that add a group of them to a command.

The command gets a group as one frozen value, so that nothing below the command line reads flags.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any, TypeVar

import click

from mimiq.cli.parameters import Option

Function = TypeVar("Function", bound=Callable[..., Any])


def group(name: str, choice: type, *options: Any) -> Callable[[Function], Function]:
    """A decorator that adds options and hands their values to the command as one ``choice``."""
    own = [field.name for field in fields(choice)]

    def decorate(function: Function) -> Function:
        @functools.wraps(function)
        def gathered(**given: Any) -> Any:
            values = {key: given.pop(key) for key in own}
            return function(**given, **{name: choice(**values)})

        decorated: Any = gathered
        for add in reversed(options):
            decorated = add(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


def option(section: str, *names: str, **attributes: Any) -> Callable[[Function], Function]:
    """An option that stands under ``section`` in the help."""
    added: Any = click.option(*names, cls=Option, section=section, **attributes)
    return added  # type: ignore[no-any-return]
