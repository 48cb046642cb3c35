"""Commands whose help has sections and examples, and whose every error looks alike."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import click

from mimiq.cli.choices import RECIPE_LINES
from mimiq.cli.failures import EXIT_CODES, reported
from mimiq.cli.streams import naming_standard_output
from mimiq.version import __version__

ENVIRONMENT = {
    "MIMIQ_CACHE": "Folder of finished stages, in the place of the user's cache folder.",
    "MIMIQ_DEBUG": "1 shows the traceback of every error, and what libraries warn of.",
}

# Under a name that no command's own flag has: mimiq check's --model-version is a version too.
version_option = click.version_option(
    __version__, "--version", "version_of_mimiq", message="mimiq %(version)s"
)


class Command(click.Command):
    """A command whose errors are reported by :func:`reported`.

    Args:
        examples: command lines that stand at the end of its help, each with what it is for.
    """

    def __init__(
        self, *args: Any, examples: Sequence[tuple[str, str]] = (), **attributes: Any
    ) -> None:
        super().__init__(*args, **attributes)
        self.examples = tuple(examples)
        version_option(self)

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with reported(), naming_standard_output():  # help is printed while arguments are read
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        # PyTorch's idle threads would spin, and take the cores from those that have work; read when
        # it is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        with reported():
            return super().invoke(ctx)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The options under the headings that :class:`mimiq.cli.parameters.Option` gives them."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if isinstance(parameter, click.Option) and record is not None:
                section = getattr(parameter, "section", "General")
                sections.setdefault(section, []).append(record)
        if any(parameter.name == "recipe" for parameter in self.get_params(ctx)):
            sections["Recipes"] = list(RECIPE_LINES.items())
        for heading, records in sections.items():
            with formatter.section(heading):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if not self.examples:
            return
        with formatter.section("Examples"):
            for line, why in self.examples:  # not wrapped: to be copied
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                formatter.write(f"{'':>{formatter.current_indent + 4}}{why}\n")


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with reported(), naming_standard_output():
            return super().make_context(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which they were added: that of the work."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> Any:
        with reported():
            return super().invoke(ctx)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Environment"):
            formatter.write_dl(list(ENVIRONMENT.items()))
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in EXIT_CODES.items()])
        with formatter.section("Examples"):
            formatter.write_dl(
                [
                    ("mimiq-compile digits --int4", "all of it, on the network that comes along"),
                    ("mimiq COMMAND --help", "what a command takes, with examples"),
                ]
            )
