"""What --help, --version and completion say, and how soon."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

import mimiq
from mimiq.cli import compile_main, main
from mimiq.cli.commanding import Command
from mimiq.cli.failures import EXIT_CODES, INTERNAL_ERROR, INTERRUPTED, TERMINATED
from mimiq.errors import MimiqError

HEAVY = {"torch", "timm", "onnx", "onnxruntime", "numpy", "rich", "PIL"}


class TestHelp:
    @pytest.mark.parametrize("entry", ["main", "compile_main"])
    def test_it_answers_at_once(self, entry: str) -> None:
        """No heavy library is imported, and the processor is busy well under a second."""
        code = (
            f"import sys, time; from mimiq.cli import {entry}\n"
            f"try: {entry}(['--help'], prog_name='mimiq')\n"
            "except SystemExit as end: assert end.code == 0\n"
            "print(sorted({name.split('.')[0] for name in sys.modules}), file=sys.stderr)\n"
            "print(time.process_time(), file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        modules, seconds = done.stderr.splitlines()
        assert done.stdout.startswith("Usage: mimiq")
        assert not HEAVY & set(eval(modules))
        assert float(seconds) < 0.8

    def test_every_stage_is_listed_and_has_help(self) -> None:
        listed = main.list_commands(click.Context(main))
        assert [stage for stage in listed if stage in STAGES] == STAGES
        for stage in listed:
            answer = CliRunner().invoke(main, [stage, "--help"])
            assert answer.exit_code == 0
            assert "--json" in answer.stdout

    def test_options_stand_under_headings(self) -> None:
        text = CliRunner().invoke(compile_main, ["--help"]).stdout
        headings = [line for line in text.splitlines() if line.endswith(":") and line[0] != " "]
        wanted = "Network Precision Calibration Measurement Target Output General Recipes Examples"
        assert headings == [f"{heading}:" for heading in wanted.split()]

    @pytest.mark.parametrize(
        ("arguments", "said"),
        [
            (["compile", "digits", "--nonsense"], "error: No such option '--nonsense'."),
            (["compile"], "error: Missing argument 'MODEL'."),
            (["compile", "digits", "--batches", "1,x"], "error: Invalid value for '--batches'"),
            (["compil"], "error: No such command 'compil'."),
        ],
    )
    def test_mistakes_of_usage_are_told_as_all_others(
        self, arguments: list[str], said: str
    ) -> None:
        answer = CliRunner().invoke(main, arguments, prog_name="mimiq")
        assert (answer.exit_code, answer.stdout) == (2, "")
        assert answer.stderr.startswith(said)
        place = "mimiq compile" if arguments[0] == "compile" else "mimiq"
        assert answer.stderr.endswith(f"\n  Run: {place} --help\n")

    @pytest.mark.parametrize("name", list(main.commands))
    def test_every_command_has_examples_that_parse(self, name: str) -> None:
        command = main.commands[name]
        assert isinstance(command, Command)
        assert command.examples
        text = CliRunner().invoke(main, [name, "--help"]).stdout
        for line, why in command.examples:
            assert f"  {line}\n      {why}\n" in text
            program, *arguments = shlex.split(line)
            if program == "mimiq":
                assert arguments.pop(0) == name
            command.make_context(name, arguments)  # a usage error would be raised

    @pytest.mark.parametrize("name", ["", *main.commands])
    def test_every_command_says_its_version(self, name: str) -> None:
        answer = CliRunner().invoke(main, [*([name] if name else []), "--version"])
        assert answer.stdout == f"mimiq {mimiq.__version__}\n"

    @pytest.mark.parametrize("name", list(main.commands))
    def test_where_a_result_goes_is_said(self, name: str) -> None:
        for parameter in main.commands[name].params:
            if isinstance(parameter, click.Option) and "-o" in parameter.opts:
                assert parameter.required or "[default: " in str(parameter.help)

    def test_the_environment_and_every_exit_code_are_said(self) -> None:
        text = CliRunner().invoke(main, ["--help"]).stdout
        assert "MIMIQ_CACHE" in text
        assert "MIMIQ_DEBUG" in text
        kinds = [MimiqError]
        for kind in kinds:
            kinds += kind.__subclasses__()
        codes = {kind.exit_code for kind in kinds} | {0, INTERNAL_ERROR, INTERRUPTED, TERMINATED}
        assert codes == EXIT_CODES.keys()
        page = (ROOT / "docs" / "command_line.md").read_text(encoding="utf-8")
        for code, meaning in EXIT_CODES.items():
            assert meaning[:40] in text
            assert f"| {code} | {meaning} |" in page

    @pytest.mark.parametrize(
        ("begun", "offered"),
        [
            ("", {"digits", "deit_t", "vit_b", "swin_t"}),
            ("deit_t", {"deit_t", "deit_tiny_patch16_224"}),
            ("./my", {"./my"}),
        ],
    )
    def test_a_shell_offers_names_of_networks(self, begun: str, offered: set[str]) -> None:
        found = ShellComplete(compile_main, {}, "mimiq-compile", "").get_completions([], begun)
        assert offered <= {item.value for item in found}
        assert len(found) < 100


ROOT = Path(__file__).parents[3]
STAGES = [
    "compile",
    "synthesize",
    "distill",
    "export",
    "build",
    "eval",
    "bench",
    "inspect",
    "models",
    "doctor",
]  # in the order of the work
