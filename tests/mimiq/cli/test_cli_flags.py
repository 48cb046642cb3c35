"""Errors name parameters; the command line reads them as flags, which exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mimiq.cli import main
from mimiq.cli.commanding import Command
from mimiq.cli.flags import with_flags
from mimiq.errors import BadInput

ROOT = Path(__file__).parents[3]


def messages() -> Iterator[tuple[Path, str]]:
    """Every text below the command line, docstrings apart."""
    for folder in ("calibrate", "export", "runtime", "mimiq"):
        for file in (ROOT / folder).rglob("*.py"):
            inside = file.relative_to(ROOT / folder).parts[0]
            if folder == "mimiq" and inside == "cli":
                continue
            # A command line of its own, what is called from Python alone, and what says which
            # flags a call would be.
            alone = ("train.py", "jobs.py", "memory.py", "torchvision_networks.py", "command.py")
            if file.name in alone:
                continue
            tree = ast.parse(file.read_text(encoding="utf-8"))
            prose = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            for node in ast.walk(tree):
                is_text = isinstance(node, ast.Constant) and isinstance(node.value, str)
                if is_text and node not in prose:
                    yield file, node.value


@pytest.mark.parametrize(
    ("text", "read"),
    [
        ("Choose another `block_size`.", "Choose another --block-size."),
        ("Use `backend=ort-cuda`, or `device=cpu`.", "Use --backend ort-cuda, or --device cpu."),
        ('`weight_only=True` with `bits="w4a16"`', "--weight-only with --bits w4a16"),
        ("Replace it with `overwrite=True`.", "Replace it with --force."),
        ("`no_such_parameter` and `a b` stay", "`no_such_parameter` and `a b` stay"),
    ],
)
def test_parameters_become_flags(text: str, read: str) -> None:
    assert with_flags(text) == read


def test_a_person_at_the_command_line_reads_flags() -> None:
    @click.command(cls=Command)
    def fail() -> None:
        raise BadInput("`max_batch=0` is out of range.", "Give a larger `max_batch`.")

    answer = CliRunner().invoke(fail)
    assert "--max-batch 0 is out of range" in answer.stderr
    assert "Give a larger --max-batch." in answer.stderr


def test_nothing_below_the_command_line_names_a_flag() -> None:
    flag = re.compile(r"(?<![\w-])--[a-z][a-z-]+|(?<!\w)-o(?!\w)")
    allowed = {"--force-reinstall"}  # pip's
    for file, text in messages():
        if text not in allowed:
            assert not flag.search(text), (file, text)


def test_every_parameter_that_a_message_names_has_a_flag() -> None:
    named = {
        match[0] for _, text in messages() for match in re.finditer(r"`(\w+)(=[^`]*`|`)", text)
    }
    assert len(named) > 10
    flags = {
        opt
        for command in main.commands.values()
        for p in command.params
        for opt in (*p.opts, *p.secondary_opts)
    }
    for name in named:
        assert with_flags(name).split()[0] in flags, name
