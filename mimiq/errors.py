"""The one error tree: each error names the thing at fault and the next step."""

from __future__ import annotations

import re

from mimiq.version import DISTRIBUTION

_WORD = re.compile(r"\S{1000,}")
_LONGEST = 20_000  # characters
CELL = 2_000  # of a table on a terminal
# What reading a description raises where its values are of other types, absent, or sizes are 0.
MISREAD = (
    *(ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError),
    *(TypeError, ValueError),
)


class MimiqError(Exception):
    """A problem that the user can act on.

    Args:
        problem: what is wrong, naming the thing at fault (a file, a flag, a node).
        next_step: what to do about it, as an imperative sentence.
    """

    exit_code = 1

    def __init__(self, problem: str, next_step: str = "") -> None:
        super().__init__(problem)
        self.problem = shortened(problem)
        self.next_step = shortened(next_step)

    def __str__(self) -> str:
        return f"{self.problem}\n  {self.next_step}" if self.next_step else self.problem


def shortened(text: str, longest: int = _LONGEST) -> str:
    """What a file holds may be of any length, and a message that repeats it cannot be read.

    Args:
        longest: characters that are left, about; fewer for a cell of a table.
    """
    text = _WORD.sub(lambda found: f"{found[0][:200]}…{found[0][-50:]}", text)
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


class BadInput(MimiqError):
    """A file, a flag or a value that cannot be used as given."""

    exit_code = 2


class UnsupportedModel(MimiqError):
    """A network whose structure no model family here describes."""

    exit_code = 3


class UnsupportedTarget(MimiqError):
    """A graph or precision that the target refuses, or would silently run in another precision."""

    exit_code = 4


class BuildFailed(MimiqError):
    """The engine builder gave up; carries its own messages."""

    exit_code = 5


class EnvironmentLacks(MimiqError):
    """A library, driver or device that was asked for is not on this host."""

    exit_code = 6


class DidNotStart(EnvironmentLacks):
    """Nothing seemed to be missing on this host, and a backend did not start nevertheless."""


class CheckFailed(MimiqError):
    """A measured accuracy, agreement or latency missed a limit that was asked for."""

    exit_code = 7


def pip_install(extra: str, *flags: str) -> str:
    """The command that installs mimiq with one of its extras; ``flags`` are pip's."""
    return " ".join(("pip install", *flags, f"'{DISTRIBUTION}[{extra}]'"))


def missing_extra(library: str, extra: str) -> EnvironmentLacks:
    """The error for an optional library that is asked for and absent."""
    return EnvironmentLacks(
        f"{library} is not installed, and this step needs it.",
        f"Install it with: {pip_install(extra)}",
    )
