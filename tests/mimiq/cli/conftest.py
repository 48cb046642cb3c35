from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from compiled import CHEAP, Fails

from mimiq.cli import compile_main
from mimiq.errors import BadInput


@pytest.fixture
def fails(tmp_path: Path) -> Fails:
    """Runs ``mimiq-compile``, which must fail with one error and leave no bundle."""

    def run(*arguments: object, exit_code: int = BadInput.exit_code) -> str:
        out = tmp_path / "out.mimiq"
        words = [str(argument) for argument in arguments]
        if "-o" not in words:
            words += ["-o", str(out)]
        # A finished set brings its own number of images.
        cheap = CHEAP[2:] if "--calibration" in words else CHEAP
        answer = CliRunner().invoke(compile_main, [*cheap, *words])
        assert answer.exit_code == exit_code, answer.output
        assert answer.stdout == ""
        assert re.match(r"error: \S.*\n  \S", answer.stderr), answer.stderr
        assert "Traceback" not in answer.stderr
        assert not out.exists()
        return answer.stderr

    return run
