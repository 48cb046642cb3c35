"""What the site adds to the pages as they stand in the repository."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
FOLDERS = ("calibrate", "export", "runtime")
COMMANDS = "<!-- commands -->"
TABLE = re.compile(r"<!-- table of (\S+) -->")
OUTSIDE = re.compile(r"\]\(\.\./([^)\s]+)\)")
ROLE = re.compile(r":(?:class|data|func|meth|mod):<code>~?")
TEST = re.compile(r"^```(\w+) test=\S+$", re.MULTILINE)


def on_startup(**_: Any) -> None:
    """The four folders as the one package that they are installed as, for the reference."""
    package = ROOT / "build" / "package" / "mimiq"
    shutil.rmtree(package, ignore_errors=True)
    package.mkdir(parents=True)
    for part in [*(ROOT / "mimiq").iterdir(), *(ROOT / name for name in FOLDERS)]:
        (package / part.name).symlink_to(part, target_is_directory=part.is_dir())


def on_page_markdown(markdown: str, *, config: Any, **_: Any) -> str:
    """Links out of the folder lead to the repository; tables and commands are filled in."""
    place = f"{config.repo_url}/blob/main/"
    markdown = OUTSIDE.sub(lambda match: f"]({place}{match[1]})", markdown)
    markdown = TABLE.sub(lambda match: first_table(ROOT / match[1]), markdown)
    markdown = TEST.sub(r"```\1", markdown)  # a word for the tests that run the lines
    return markdown.replace(COMMANDS, helps()) if COMMANDS in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """Docstrings name others with roles, which would be shown as they are typed."""
    return ROLE.sub("<code>", html)


def first_table(page: Path) -> str:
    """The first table of a page of results."""
    lines = page.read_text(encoding="utf-8").splitlines()
    start = next(index for index, line in enumerate(lines) if line.startswith("|"))
    end = next((i for i in range(start, len(lines)) if not lines[i].startswith("|")), len(lines))
    return "\n".join(lines[start:end])


def helps() -> str:
    """What every command says of itself."""
    import click

    from mimiq.cli import main

    parts = []
    for name, command in main.commands.items():
        title = "mimiq-compile" if name == "compile" else f"mimiq {name}"
        context = click.Context(command, info_name=title, max_content_width=100, terminal_width=100)
        parts.append(f"## {title}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)
