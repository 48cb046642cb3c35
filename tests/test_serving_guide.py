"""Every line of the serving guide that runs without Docker and a GPU."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from compiled import INT8, Compile
from serving_server import mimiq, needs_server, start, stop, wait_ready

pytestmark = [needs_server, pytest.mark.slow]

GUIDE = Path(__file__).parents[1] / "docs" / "serving.md"


def _blocks() -> dict[str, str]:
    """The guide's marked code blocks, by mark."""
    found = re.findall(r"```(?:sh|python) test=(\w+)\n(.*?)```", GUIDE.read_text("utf-8"), re.S)
    return dict(found)


def test_every_line_of_the_guide_that_can_run_here(compile_digits: Compile, tmp_path: Path) -> None:
    """The blocks as they stand, but for the ports: those of this test's server."""
    bundle = compile_digits(*INT8).path
    blocks = _blocks()
    assert list(blocks) == ["compile", "pack", "serve", "check", "client"]
    # Compiling is done once a session, by the same command through the same fixture.
    assert blocks["compile"].split()[:3] == ["mimiq-compile", "digits", "--int8"]
    shutil.copytree(bundle, tmp_path / "digits.mimiq")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        for line in blocks["pack"].splitlines():
            answer = mimiq(*shlex.split(line)[1:])
            assert answer.exit_code == 0, answer.stderr
    assert blocks["serve"].split() == ["mlserver", "start", "models"]  # what start runs
    running = start(tmp_path / "models", workers=1)  # as the line above has it by default
    try:
        wait_ready(running, "digits", "digits-pixels")

        def here(text: str) -> str:
            return text.replace("localhost:8080", running.http).replace(
                "localhost:8081", running.grpc
            )

        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            for line in here(blocks["check"]).splitlines():
                answer = mimiq(*shlex.split(line)[1:])
                assert answer.exit_code == 0, answer.stderr
        program = subprocess.run(
            [sys.executable, "-c", here(blocks["client"])],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert program.returncode == 0, program.stderr
        assert re.match(r"\[\[b'\d' b'\d' b'\d'\]\] \[\[", program.stdout)
    finally:
        stop(running)
