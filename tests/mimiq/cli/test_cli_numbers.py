"""Values on the command line that mean nothing: limits, numbers and paths that cannot be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from mimiq.cli import main

HUGE = "1" + "0" * 20


def takers(samples: tuple[str, ...], kind: type) -> list[Any]:
    """Every option that reads one of these samples as numbers of a kind, with that sample."""

    def found() -> Iterator[Any]:
        for name, command in main.commands.items():
            for option in command.params:
                sample = next((text for text in samples if reads(option, text, kind)), None)
                if sample is not None and isinstance(option, click.Option):
                    yield pytest.param(option, sample, id=f"{name} {option.opts[0]}")

    return list(found())


def reads(option: click.Parameter, text: str, kind: type) -> bool:
    try:
        value = option.type.convert(text, option, None)
    except click.BadParameter:
        return False
    return {type(one) for one in (value if isinstance(value, tuple) else (value,))} == {kind}


FLOATS = takers(("0.5", "0.5,0.5,0.5"), float)
INTEGERS = takers(("2", "2,2,2"), int)


def test_there_are_numbers_of_both_kinds() -> None:
    for taken, some in ((FLOATS, "check --min-cosine"), (INTEGERS, "build --profile")):
        assert some in [one.id for one in taken]
        assert len(taken) > 10


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e999"])
@pytest.mark.parametrize(("option", "sample"), FLOATS)
def test_no_limit_is_infinite_or_none(option: click.Option, sample: str, text: str) -> None:
    with pytest.raises(click.BadParameter):
        option.type.convert(sample.replace("0.5", text), option, None)


@pytest.mark.parametrize(("option", "sample"), INTEGERS)
def test_no_number_exceeds_what_libraries_take(option: click.Option, sample: str) -> None:
    with pytest.raises(click.BadParameter) as raised:
        option.type.convert(sample.removesuffix("2") + HUGE, option, None)
    assert HUGE in raised.value.message


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("eval X --min-agreement nan", "Invalid value for '--min-agreement': nan is not a finite"),
        ("eval X --batch-size " + HUGE, f"Invalid value for '--batch-size': {HUGE} is too large"),
        ("build X --profile 1,1," + HUGE, f"Invalid value for '--profile': {HUGE} is too large"),
        ("bench X --batches 1," + HUGE, f"Invalid value for '--batches': {HUGE} is too large"),
        ("compile digits --image-size " + HUGE, f"{HUGE} is too large; at most 65536"),
    ],
)
def test_the_option_is_named_before_any_work(words: str, said: str, tmp_path: Path) -> None:
    words = words.replace("X", str(tmp_path)).replace("compile digits", "compile digits")
    answer = CliRunner().invoke(main, words.split())
    assert answer.exit_code == 2
    assert said in answer.stderr


def test_empty_text_is_no_path() -> None:
    """As of a variable that is not set: it would be the current folder."""
    for arguments in (["inspect", ""], ["compile", "digits", "--int8", "--calibration", ""]):
        done = CliRunner().invoke(main, arguments)
        assert done.exit_code == 2
        assert "empty text" in done.output.lower()
