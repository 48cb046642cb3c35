"""The README's commands: CI runs the one for tests, the others parse, the Python lines run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import click
import pytest
from compiled import INT4, Compile
from PIL import Image

from mimiq.cli import compile_main, main
from mimiq.models.digits import digits_heldout

ROOT = Path(__file__).parents[3]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def shell_commands() -> list[str]:
    """Every line of the README's shell blocks, without its comment, cut at ``&&``."""
    lines = "\n".join(blocks("sh")).splitlines()
    return [part for line in lines if line for part in line.split("  #")[0].strip().split(" && ")]


MIMIQ = [line for line in shell_commands() if re.match(r"(\.venv/bin/)?mimiq", line)]


def test_there_are_commands_to_check() -> None:
    assert len(MIMIQ) >= 10


@pytest.mark.parametrize("line", MIMIQ)
def test_commands_parse(line: str) -> None:
    program, *arguments = shlex.split(line)
    entry: click.Command = compile_main if program.endswith("mimiq-compile") else main
    if entry is main:
        name, *arguments = arguments
        assert name in main.commands
        entry = main.commands[name]
    entry.make_context(program, arguments)  # a usage error would be raised


def test_links_are_absolute_and_lead_to_files() -> None:
    """A package index shows the page without the repository around it."""
    place = "https://github.com/mimiq-vit/mimiq/blob/main/"
    defined = dict(re.findall(r"^\[([^]]+)\]: (\S+)$", README, flags=re.MULTILINE))
    used = set(re.findall(r"\]\[([^]]+)\]", README.replace("\n", " ")))
    assert used == defined.keys()
    for target in [*defined.values(), *re.findall(r"\]\(([^)]+)\)", README)]:
        assert target.startswith("https://"), target
        if target.startswith(place):
            assert (ROOT / target.removeprefix(place).split("#")[0]).exists(), target


def test_the_first_two_set_everything_up() -> None:
    first, second = (blocks("sh")[index].strip() for index in (0, 1))
    assert first.startswith("python3 -m venv .venv && .venv/bin/pip install -e '.[compile]' && ")
    assert first.endswith("&& .venv/bin/mimiq-compile digits --int4")
    assert second.endswith("&& .venv/bin/pytest")


def test_ci_runs_the_readme_s_tests_word_for_word() -> None:
    """The line by which .ci/run finds the command is taken from it and tried here."""
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    (found,) = re.findall(r"^tests=\$\((grep .* README\.md)\)$", script, flags=re.MULTILINE)
    done = subprocess.run(["bash", "-c", found], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == blocks("sh")[1].strip()
    assert 'bash -c "$tests"' in script
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


@pytest.mark.slow
def test_the_lines_of_python_run(
    compile_digits: Compile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lines,) = blocks("python")
    (tmp_path / "digits-w4a8.mimiq").symlink_to(compile_digits(*INT4).path)
    images, labels = digits_heldout()
    Image.fromarray(images[0]).save(tmp_path / "image.png")
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(lines, names)
    logits = names["logits"]
    assert logits.shape == (1, 10)  # type: ignore[attr-defined]
    assert logits.argmax() == labels[0]  # type: ignore[attr-defined]
