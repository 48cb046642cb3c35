"""The pages: their commands parse, their links lead somewhere, the site has all of them."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import pytest

from mimiq.cli import compile_main, main

ROOT = Path(__file__).parents[1]
PAGES = sorted((ROOT / "docs").glob("*.md"))


def commands() -> list[str]:
    """Every line of a shell block that calls mimiq, without its comment."""
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for block in re.findall(r"^```sh[^\n]*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            lines = [line.split("  #")[0].strip() for line in block.splitlines()]
            found += [line for line in lines if re.match(r"mimiq(-compile)? ", line)]
    return sorted(set(found))


@pytest.mark.parametrize("line", commands())
def test_commands_parse(line: str) -> None:
    program, *arguments = shlex.split(line)
    entry: click.Command = compile_main
    if program == "mimiq":
        entry = main.commands[arguments.pop(0)]
    entry.make_context(program, arguments)  # a usage error would be raised


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if not re.match(r"https?:", target):
            assert (page.parent / target).exists(), target


def test_the_site_has_every_page() -> None:
    site = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert {page.name for page in PAGES} == set(re.findall(r": (\w+\.md)$", site, re.MULTILINE))


def test_ci_builds_the_site_strictly() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    assert ".venv/bin/mkdocs build --strict" in script
